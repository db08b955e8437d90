"""Assembled checkpoints: the tensors that a merge works on, made of the pieces that files hold.

Guarantees: opening reads no weights; a piece is read when a tensor that it belongs to is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from merging.checkpoint import Checkpoint, TensorInfo
from merging.errors import MergingError, first_line
from merging.layout import Layout, Pieces


@dataclass(frozen=True)
class Assembled(Checkpoint):
    """A checkpoint, by the tensors that a merge has, whatever pieces its files hold."""

    files: Checkpoint
    layout: Layout = field(repr=False)
    pieces: dict[str, Pieces] = field(repr=False)

    @classmethod
    def of(cls, files: Checkpoint, layout: Layout) -> Checkpoint:
        """Look at a checkpoint in a layout; the checkpoint itself, where its files have it already."""
        pieces = layout.pieces(files.tensors)
        if all(stored == (name,) for name, stored in pieces.items()):
            return files
        tensors = {name: _info(name, stored, files, layout) for name, stored in pieces.items()}
        return cls(files.reference, files.folder, tensors, files, layout, pieces)

    def read(self, name: str, device: torch.device) -> Tensor:
        """Read one tensor, as `Checkpoint.read` does, made of its pieces."""
        return self.layout.assemble(name, {piece: self.files.read(piece, device) for piece in self.pieces[name]})


def _info(name: str, stored: Pieces, files: Checkpoint, layout: Layout) -> TensorInfo:
    infos = {piece: files.tensors[piece] for piece in stored}
    empty = {piece: torch.empty(info.shape, dtype=info.dtype, device="meta") for piece, info in infos.items()}
    try:
        tensor = layout.assemble(name, empty)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:  # what transformers' operations raise
        raise MergingError(
            f"model {files.reference}: tensor {name} cannot be made of its {len(stored)} pieces in the files "
            f"({stored[0]}, ...): {first_line(error)}"
        ) from None
    return TensorInfo(infos[stored[0]].file, tuple(tensor.shape), tensor.dtype)
