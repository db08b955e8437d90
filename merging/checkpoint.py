"""Checkpoints: a model's folder (or hub id), opened to look at its tensors without reading them.

Guarantees: safetensors files, sharded or not, are checked for being whole before any tensor is read; a tensor is read
once, by name. Does not read torch pickles, and does not know what a layer is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from merging.errors import MergingError, code_refused, first_line

_INDEX = "model.safetensors.index.json"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file's header says about a tensor."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: where it lies and what tensors it has."""

    reference: str
    folder: Path
    tensors: dict[str, TensorInfo] = field(repr=False)
    trust_remote_code: bool = False

    @classmethod
    def open(cls, reference: str, trust_remote_code: bool = False) -> Checkpoint:
        """Find a model and read its files' headers. Raises MergingError that names the model and what is wrong."""
        folder = locate(reference, trust_remote_code)
        tensors: dict[str, TensorInfo] = {}
        for file in _weight_files(reference, folder):
            tensors.update(_read_header(file))
        if not tensors:
            raise MergingError(f"model {reference}: {folder} holds no tensors; download the model again")
        return cls(reference, folder, tensors, trust_remote_code)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The model's configuration. Raises MergingError if it has none that transformers can read."""
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
            return config
        except Exception as error:  # whatever the model's own config class makes of what it does not expect
            raise code_refused(self.reference, error) or MergingError(
                f"model {self.reference}: its config.json cannot be used: {first_line(error)}"
            ) from None

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that most of its elements are stored in."""
        sizes: dict[torch.dtype, int] = {}
        for info in self.tensors.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + torch.Size(info.shape).numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    def read(self, name: str, device: torch.device) -> Tensor:
        """Read one tensor into memory of its own on a device. Raises MergingError if its file cannot be read."""
        info = self.tensors[name]
        try:
            with safe_open(info.file, framework="pt") as file:
                # The copy leaves the mapped file behind: a file that is cut short later cannot crash the process.
                tensor: Tensor = file.get_tensor(name).to(device, copy=True)
                return tensor
        except (SafetensorError, OSError) as error:
            raise MergingError(f"{info.file}: tensor {name} cannot be read: {first_line(error)}") from None


def locate(reference: str, trust_remote_code: bool = False) -> Path:
    """Return the folder of a model given as a folder or a hub id (with @revision); hub ids are downloaded once.

    Python files of a hub id are downloaded only where they may be executed. Raises MergingError for what is neither.
    """
    if "+" in reference and not Path(reference).exists():
        raise MergingError(
            f"model {reference}: LoRA adapters cannot be merged on the fly; merge this one into its base with peft "
            "(merge_and_unload, save_pretrained) and give that folder"
        )
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise MergingError(f"model {reference}: is a file; give the folder that holds config.json and the safetensors")
    if path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") != 1:
        raise MergingError(f"model {reference}: no such folder")
    return _download(reference, trust_remote_code)


def _download(reference: str, trust_remote_code: bool) -> Path:
    name, _, revision = reference.partition("@")
    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
        patterns += ["*.py"] if trust_remote_code else []
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError, RuntimeError) as error:  # what huggingface_hub and its HTTP client raise
        raise MergingError(
            f"model {reference}: no such folder here, and not to be had from the hub: {first_line(error)}"
        ) from None


def _weight_files(reference: str, folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.exists():
        try:
            content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
            files = sorted({folder / name for name in content["weight_map"].values()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise MergingError(f"{index}: is no index of safetensors files; download the model again") from None
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise MergingError(
                f"model {reference}: {missing[0]} is missing ({_INDEX} names it); download the model again"
            )
        return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        hint = "; it holds torch pickles: save it as safetensors first" if list(folder.glob("*.bin")) else ""
        raise MergingError(f"model {reference}: {folder} holds no *.safetensors files{hint}")
    single = folder / "model.safetensors"
    return [single] if single in files else files


def _read_header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(file, framework="pt") as opened:
            found = {}
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                part = opened.get_slice(name)
                found[name] = TensorInfo(file, tuple(part.get_shape()), _dtype(file, name, part.get_dtype()))
            return found
    except (SafetensorError, OSError) as error:
        raise MergingError(
            f"{file}: is no whole safetensors file ({first_line(error)}); download or copy it again"
        ) from None


def _dtype(file: Path, tensor: str, name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise MergingError(
            f"{file}: tensor {tensor} is stored as {name}; save the model as bfloat16, float16 or float32"
        )
    return _DTYPES[name]
