"""Assembled tensors: the tensors of a merge, assembled from the pieces in files.

Guarantees: opening reads no weights. Reading a tensor reads its pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.layout import Layout
from merging.checkpoints.weights import Digest, StoredTensor
from merging.errors import MergingError, first_line


@dataclass(frozen=True)
class AssembledTensor(StoredTensor):
    """A tensor whose file holds it in pieces, or under another name; `file` is that of the first piece."""

    pieces: tuple[tuple[str, StoredTensor], ...]
    layout: Layout = field(repr=False, compare=False)

    def read(self) -> Tensor:
        """Read the pieces and assemble the tensor."""
        return self.layout.assemble(self.name, {name: piece.read() for name, piece in self.pieces})

    def made_of(self, digest: Digest) -> object:
        """Return the identity of the pieces and of the rules that assemble them."""
        pieces = [[name, piece.made_of(digest)] for name, piece in self.pieces]
        return ["assembled", self.name, self.layout.rules, pieces]


def assemble(checkpoint: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """Return a checkpoint with the tensors of a merge, whatever pieces its files hold.

    Args:
        checkpoint: the model with the tensors of its files.
        reference: the model whose layout the merge has.

    Raises MergingError that names the model and the tensor if the pieces do not fit together.
    """
    pieces, layout = reference.pieces(checkpoint.tensors), reference.architecture.layout
    tensors = {
        name: checkpoint.tensors[name]
        if stored == (name,)
        else _assembled(checkpoint, layout, name, {piece: checkpoint.tensors[piece] for piece in stored})
        for name, stored in pieces.items()
    }
    return replace(checkpoint, tensors=tensors)


def _assembled(checkpoint: Checkpoint, layout: Layout, name: str, pieces: Mapping[str, StoredTensor]) -> StoredTensor:
    empty = {piece: torch.empty(each.shape, dtype=each.dtype, device="meta") for piece, each in pieces.items()}
    first = next(iter(pieces))
    try:
        tensor = layout.assemble(name, empty)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:  # what transformers' operations raise
        raise MergingError(
            f"model {checkpoint.reference}: tensor {name} cannot be assembled from its {len(pieces)} pieces in the "
            f"files ({first}, ...): {first_line(error)}"
        ) from None
    return AssembledTensor(name, tuple(tensor.shape), tensor.dtype, pieces[first].file, tuple(pieces.items()), layout)
