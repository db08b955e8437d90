"""Contents: which files make a model what it is, and their digests by kind.

Guarantees: two models (or adapters) whose files of these kinds hold the same have equal digests, wherever they lie and
whatever they are called; a model of the hub is known by its commit, and its files are not read. Reads no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from merging.checkpoints import adapters
from merging.checkpoints.checkpoint import CONFIG, locate, stored_weights
from merging.checkpoints.references import split_reference
from merging.checkpoints.weights import Digest
from merging.options import LOAD, LoadOptions
from merging.tokenization.tokenizers import FILES as TOKENIZER

_KINDS: Mapping[str, tuple[str, ...]] = {
    "config": ("config*.json", "generation_config.json", "adapter_config.json"),
    "tokenizer": (*TOKENIZER, "*.model", "*.tiktoken", "*.jinja", "additional_chat_templates/*"),
}
_CODE = ("*.py",)


@dataclass(frozen=True, slots=True)
class Contents:
    """What one model, adapter or file holds.

    Attributes:
        place: where it is: a folder, a file or a hub id.
        commit: of a model of the hub, the commit.
        files: its files, by kind: weights, config, tokenizer, code.
    """

    place: str
    commit: str | None
    files: Mapping[str, tuple[Path, ...]]

    def digests(self, digest: Digest) -> dict[str, str]:
        """Return a digest a kind, given what returns a file's; of a model of the hub the commit."""
        if self.commit:
            return {"commit": self.commit}
        found = {}
        for kind, files in self.files.items():
            # However many files the weights lie in, and whatever these are called, a name says nothing of a tensor.
            content = sorted(["" if kind == "weights" else file.name, digest(file)] for file in files)
            found[kind] = sha256(json.dumps(content).encode()).hexdigest()
        return found


def contents_of(reference: str, options: LoadOptions = LOAD, *, weights: bool = True) -> Iterator[Contents]:
    """Yield what a reference names: a model, and an adapter if it has one.

    Args:
        reference: a folder or a hub id (with @revision); after a "+", a LoRA adapter.
        options: what opening it may do; code that may be executed is part of it.
        weights: whether they matter; not for what lends its tokenizer alone.

    Raises:
        MergingError: it is neither a folder nor to be had from the hub.
    """
    model, adapter = split_reference(reference)
    for part in filter(None, (model, adapter)):
        what = "adapter" if part == adapter else "model"
        folder = locate(part, options, what=what)
        kinds = dict(_KINDS) | ({"code": _CODE} if options.trust_remote_code else {})
        files = {kind: _files(folder, patterns) for kind, patterns in kinds.items()}
        if weights:
            files = {"weights": tuple(stored_weights(folder, _is_adapter(folder, part == adapter)))} | files
        commit = None if Path(part).expanduser().is_dir() else folder.name
        yield Contents(part, commit, {kind: found for kind, found in files.items() if found})


def _is_adapter(folder: Path, named_second: bool) -> bool:
    return named_second or ((folder / adapters.CONFIG).exists() and not (folder / CONFIG).exists())


def _files(folder: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}))
