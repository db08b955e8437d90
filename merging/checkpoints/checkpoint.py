"""Checkpoints: a model's folder (or hub id), perhaps with a LoRA adapter, opened to inspect its tensors.

Guarantees: opening reads headers, never weights; files, sharded or not, are checked for completeness before any tensor
is read. Does not know what a layer is.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from merging.checkpoints import adapters
from merging.checkpoints.adapters import Adapter, read_config
from merging.checkpoints.architecture import Architecture, skeleton
from merging.checkpoints.differences import generation_settings
from merging.checkpoints.layout import Layout, Pieces
from merging.checkpoints.lora import AdaptedTensor
from merging.checkpoints.model_config import Config, loading_keys, plain_config
from merging.checkpoints.model_files import CONFIG, GENERATION, WANTED_FILES
from merging.checkpoints.pickles import read_pickle
from merging.checkpoints.references import is_hub_id, split_reference
from merging.checkpoints.remembered_answers import digest, remembered
from merging.checkpoints.weights import StoredTensor, read_header
from merging.errors import MergingError, code_refused, first_line
from merging.options import LOAD, LoadOptions

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

T = TypeVar("T")

_LOG = logging.getLogger("merging.checkpoints")

_QUIET_SECONDS = 2.0
_SAFETENSORS, _ADAPTER = "model.safetensors", "adapter_model.safetensors"
_PICKLE = "pytorch_model.bin"
_INDEX = ".index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: its folder and its tensors."""

    reference: str
    folder: Path
    tensors: dict[str, StoredTensor] = field(repr=False)
    options: LoadOptions = LOAD

    @classmethod
    def open(cls, reference: str, options: LoadOptions = LOAD) -> Checkpoint:
        """Find a model and read its files' headers.

        Args:
            reference: a folder or a hub id (with @revision); after a "+", a LoRA adapter to merge into it.
            options: what may be done to open it.

        Raises:
            MergingError: the model or the adapter, which is named, is missing or broken, or they do not fit.
        """
        model, adapter = split_reference(reference)
        folder = locate(model, options)
        if not (folder / CONFIG).exists() and (folder / adapters.CONFIG).exists():
            raise MergingError(f"model {model}: is a LoRA adapter; write it after its base model, as BASE+{model}")
        weights = _open_weights(f"model {model}", folder, options)
        checkpoint = cls(reference, folder, weights, options)
        return checkpoint if adapter is None else checkpoint._adapted(model, adapter)

    @cached_property
    def config(self) -> Config:
        """What its configuration says. Raises MergingError if it has none that transformers can read."""
        return Config.of(self.remembered("config", lambda: plain_config(self.transformers_config)))

    @property
    def loading_keys(self) -> list[str]:
        """The keys of its config.json that say how to load it; a merge leaves them out."""
        content = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        parts = [content, *(value for value in content.values() if isinstance(value, dict))]
        return list(dict.fromkeys(key for part in parts for key in loading_keys(part, self.options.trust_remote_code)))

    @cached_property
    def transformers_config(self) -> PreTrainedConfig:
        """Its configuration, to build a model from. Raises MergingError if transformers cannot read one."""
        from transformers import AutoConfig

        if not (self.folder / CONFIG).exists():
            raise MergingError(f"model {self.reference}: {self.folder} holds no config.json; download the model again")
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=self.options.trust_remote_code
            )
            # Whoever loads a model chooses its attention code; a merge does not record that choice.
            for part in (config, config.get_text_config()):
                part._attn_implementation = part._experts_implementation = None
            return config
        except Exception as error:  # a model's own config class may raise anything
            raise code_refused(self.reference, error) or MergingError(
                f"model {self.reference}: its config.json cannot be used: {first_line(error)}"
            ) from None

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """Its generation_config.json, or one made from its config. Raises MergingError if it cannot be used."""
        from transformers import GenerationConfig

        file = self.folder / GENERATION
        try:
            if file.exists():
                return GenerationConfig.from_pretrained(self.folder)
            return GenerationConfig.from_model_config(self.transformers_config)
        except (OSError, ValueError, TypeError) as error:
            raise MergingError(f"{file}: cannot be used: {first_line(error)}") from None

    @property
    def generation_settings(self) -> str:
        """What its generation_config.json asks for beyond greedy decoding. Raises MergingError if it is broken."""
        return self.remembered(
            "generation settings", lambda: generation_settings(self.generation_config.to_diff_dict())
        )

    @cached_property
    def architecture(self) -> Architecture:
        """Its architecture. Raises MergingError if transformers cannot build a model from its config."""
        build = cache(lambda: skeleton(self.transformers_config, self.reference, self.options))

        def ask() -> tuple[dict[str, Any], bool]:
            layout = Layout(build)
            return Architecture.of(build(), layout).plain(), layout.in_pieces

        plain, in_pieces = self.remembered("architecture", ask)
        return Architecture.restored(plain, Layout(build, in_pieces))

    def architecture_as(self, reference: Checkpoint) -> Architecture:
        """Return its architecture, with the tensor names of the model that it is merged with."""
        layout = reference.architecture.layout

        def ask() -> dict[str, Any]:
            model = skeleton(self.transformers_config, self.reference, self.options)
            return Architecture.of(model, layout).plain()

        plain = self.remembered(["architecture", reference.config.to_dict()], ask)
        return Architecture.restored(plain, layout)

    def pieces(self, stored: Collection[str]) -> Mapping[str, Pieces]:
        """Return the merge's names for stored tensors, each with its pieces, as `Layout.pieces` does."""
        layout = self.architecture.layout
        if layout.in_pieces:
            return layout.pieces(stored)
        found = self.remembered(["pieces", sorted(stored)], lambda: layout.pieces(stored))
        return {name: tuple(pieces) for name, pieces in found.items()}

    def remembered(self, question: object, ask: Callable[[], T]) -> T:
        """Return what transformers says about the model, as plain data; on disk unless the model's own code may run.

        Args:
            question: the question, as plain data; the bytes of the config files are added to it.
            ask: gives the answer, as plain data.
        """
        if self.options.trust_remote_code:
            return ask()
        names = sorted({file.name for file in self.folder.glob("config*.json")} | {GENERATION})
        # transformers guesses the type of a config without one from the folder's name.
        known = b'"model_type"' in (self.folder / CONFIG).read_bytes() if CONFIG in names else False
        place = None if known else str(self.folder)
        answer: T = remembered([question, place, {name: digest(self.folder / name) for name in names}], ask)
        return answer

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that most of its elements are stored in."""
        sizes: dict[torch.dtype, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + torch.Size(tensor.shape).numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    @property
    def nbytes(self) -> int:
        """The size of all its tensors in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def adapted(self) -> dict[str, StoredTensor]:
        """Return the tensors that its adapter changes."""
        return {name: tensor for name, tensor in self.tensors.items() if isinstance(tensor, AdaptedTensor)}

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory of its own, on the CPU. Raises MergingError if its file cannot be read."""
        return self.tensors[name].read()

    def _adapted(self, model: str, reference: str) -> Checkpoint:
        folder = locate(reference, self.options, what="adapter")
        weights = _open_weights(f"adapter {reference}", folder, self.options, _ADAPTER)
        config = read_config(reference, folder)  # refused before the base is built
        base = skeleton(self.transformers_config, model, self.options)
        changed = Adapter(reference, folder, config, weights, model, self.tensors, base).adapted()
        return replace(self, tensors=self.tensors | changed)


def locate(reference: str, options: LoadOptions = LOAD, *, what: str = "model") -> Path:
    """Return the folder of a model given as a folder or a hub id (with @revision); hub ids are downloaded once.

    For a model with an adapter, it is the model's folder. Pickles and Python files of a hub id are downloaded only if
    the options allow reading or executing them; an adapter has no code. Raises MergingError if it is neither.
    """
    reference, _ = split_reference(reference)
    path = Path(reference).expanduser()
    if path.is_dir() and reference:
        return path
    if path.exists() and reference:
        raise MergingError(f"{what} {reference}: is a file; give the folder that holds config.json and the safetensors")
    if not is_hub_id(reference):
        raise MergingError(f"{what} {reference}: no such folder")
    return _download(reference, options if what == "model" else replace(options, trust_remote_code=False), what)


@cache
def _download(reference: str, options: LoadOptions, what: str) -> Path:
    from huggingface_hub import is_offline_mode, snapshot_download

    name, _, revision = reference.partition("@")
    patterns = [*WANTED_FILES, *(["*.py"] if options.trust_remote_code else [])]
    try:
        with _asking_the_hub(f"{what} {reference}"):
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
            if options.lazy_unpickle and not list(folder.glob("*.safetensors")):
                snapshot_download(name, revision=revision or None, allow_patterns=["*.bin"])
        return folder
    except Exception as error:  # the errors of huggingface_hub, its HTTP client and proxies have no common base
        reason = "it is not in the cache, and HF_HUB_OFFLINE is set" if is_offline_mode() else first_line(error)
        raise MergingError(
            f"{what} {reference}: no such folder here, and not available from the hub: {reason.rstrip('.')}; if it "
            f"is a path, nothing is there: give a folder{'' if is_offline_mode() else ', or try again'}"
        ) from None


@contextmanager
def _asking_the_hub(what: str) -> Iterator[None]:
    """Announce slow downloads, and give up on unanswered requests: some in huggingface_hub 2.4 have no time limit."""
    from huggingface_hub import constants, get_session

    seconds = constants.HF_HUB_ETAG_TIMEOUT

    def limit(request: Any) -> None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {kind: limits.get(kind) or seconds for kind in ("connect", "read", "write")}

    message = "%s: fetching it from %s; an unanswered request is given up after %g s"
    notice = threading.Timer(_QUIET_SECONDS, _LOG.warning, (message, what, constants.ENDPOINT, seconds))
    notice.daemon = True
    client = get_session()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], limit]}
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
        client.event_hooks = hooks


def _open_weights(what: str, folder: Path, options: LoadOptions, single: str = _SAFETENSORS) -> dict[str, StoredTensor]:
    """Return the tensors of a model's or an adapter's folder; errors call it `what`."""
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(what, folder, single):
        tensors.update(read_header(file))
    if not tensors:
        for file in _pickle_files(what, folder, single, options):
            tensors.update(read_pickle(file))
    if not tensors:
        raise MergingError(f"{what}: {folder} holds no tensors; download it again")
    return tensors


def stored_weights(folder: Path, adapter: bool = False) -> list[Path]:
    """Return the files that hold a model's or an adapter's weights: its safetensors, or else its torch pickles."""
    single = _ADAPTER if adapter else _SAFETENSORS
    what = f"model {folder}"
    return _weight_files(what, folder, single) or _pickles(what, folder, single)


def _weight_files(what: str, folder: Path, single: str) -> list[Path]:
    if files := _indexed_files(what, folder, single):
        return files
    files = sorted(folder.glob("*.safetensors"))
    return [folder / single] if folder / single in files else files


def _pickle_files(what: str, folder: Path, single: str, options: LoadOptions) -> list[Path]:
    files = _pickles(what, folder, single)
    if not files:
        raise MergingError(f"{what}: {folder} holds no *.safetensors files")
    if not options.lazy_unpickle:
        raise MergingError(
            f"{what}: {folder} holds torch pickles ({files[0].name}) and no safetensors; pass --lazy-unpickle "
            "(in a search's config, merging.lazy_unpickle: true) to read them, or save it as safetensors first"
        )
    return files


def _pickles(what: str, folder: Path, single: str) -> list[Path]:
    name = _PICKLE if single == _SAFETENSORS else single.replace(".safetensors", ".bin")
    return _indexed_files(what, folder, name) or [file for file in [folder / name] if file.exists()]


def _indexed_files(what: str, folder: Path, single: str) -> list[Path]:
    index = folder / f"{single}{_INDEX}"
    if not index.exists():
        return []
    try:
        content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        files = sorted({folder / name for name in content["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise MergingError(
            f"{index}: is not an index of {index.suffixes[0][1:]} files; download the model again"
        ) from None
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise MergingError(f"{what}: {missing[0]} is missing ({index.name} names it); download the model again")
    return files
