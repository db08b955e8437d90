"""Contents: the files that make up a model, and their digests by kind.

Guarantees: two models (or adapters) with equal files have equal digests, whatever their folders and the names of their
weights files. A model of the hub is identified by its commit, and its files are not read. Reads no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from merging.checkpoints import adapters
from merging.checkpoints.checkpoint import locate, stored_weights
from merging.checkpoints.model_files import CONFIG, GENERATION, TOKENIZER_FILES, matching
from merging.checkpoints.references import split_reference
from merging.checkpoints.weights import Digest
from merging.options import LOAD, LoadOptions

_KINDS: Mapping[str, tuple[str, ...]] = {
    "config": ("config*.json", GENERATION, adapters.CONFIG),
    "tokenizer": TOKENIZER_FILES,
}
_CODE = ("*.py",)


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of one model or adapter, or one file.

    Attributes:
        place: a folder, a file or a hub id.
        commit: the commit of a model of the hub.
        files: its files, by kind: weights, config, tokenizer, code.
    """

    place: str
    commit: str | None
    files: Mapping[str, tuple[Path, ...]]

    def digests(self, digest: Digest) -> dict[str, str]:
        """Return a digest per kind, or the commit of a model of the hub; `digest` returns that of a file."""
        if self.commit:
            return {"commit": self.commit}
        found = {}
        for kind, files in self.files.items():
            # The number and names of the weights files do not matter, since they do not change a tensor.
            content = sorted(["" if kind == "weights" else file.name, digest(file)] for file in files)
            found[kind] = sha256(json.dumps(content).encode()).hexdigest()
        return found


def contents_of(reference: str, options: LoadOptions = LOAD, *, weights: bool = True) -> Iterator[Contents]:
    """Yield the contents of a reference: of its model, and of its adapter if it names one.

    Args:
        reference: a folder or a hub id (with @revision); after a "+", a LoRA adapter.
        options: what may be done to open it; code that may be executed counts as content.
        weights: whether weights count; they do not for a model that only lends its tokenizer.

    Raises:
        MergingError: it is neither a folder nor available from the hub.
    """
    model, adapter = split_reference(reference)
    for part in filter(None, (model, adapter)):
        what = "adapter" if part == adapter else "model"
        folder = locate(part, options, what=what)
        kinds = dict(_KINDS) | ({"code": _CODE} if options.trust_remote_code else {})
        files = {kind: tuple(matching(folder, patterns)) for kind, patterns in kinds.items()}
        if weights:
            files = {"weights": tuple(stored_weights(folder, _is_adapter(folder, part == adapter)))} | files
        commit = None if Path(part).expanduser().is_dir() else folder.name
        yield Contents(part, commit, {kind: found for kind, found in files.items() if found})


def _is_adapter(folder: Path, named_second: bool) -> bool:
    return named_second or ((folder / adapters.CONFIG).exists() and not (folder / CONFIG).exists())
