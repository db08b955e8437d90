"""LoRA's arithmetic: a tensor of a base model with the changes that an adapter makes to it, made when it is read.

Guarantees: the bits are those of peft 0.21's `merge_and_unload` on a CPU, whatever device the tensor is used on. Unlike
with peft, each tensor is merged when it is read, so memory never holds the whole adapted model. Does not know the file
format of adapters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merging.checkpoints.weights import Digest, StoredTensor

# Version of the arithmetic; raise it when the bits change.
_VERSION = 1


@dataclass(frozen=True)
class LowRank:
    """The change of a weight: scaling · B A (arXiv:2106.09685); with a magnitude, that of DoRA (arXiv:2402.09353).

    Attributes:
        a: (rank, in features), or (rank, vocabulary) for an embedding.
        b: (out features, rank), or (width, rank) for an embedding.
        scaling: alpha over the rank, or over its root.
        transposed: whether the weight is stored as (in, out), as in transformers' Conv1D and in embeddings.
        embedding: whether the weight is an embedding, for which peft rounds the change before it is added.
        magnitude: the norms of the merged weight's rows (its columns, where transposed), or None for plain LoRA.
    """

    a: StoredTensor
    b: StoredTensor
    scaling: float
    transposed: bool
    embedding: bool
    magnitude: StoredTensor | None

    def apply(self, weight: Tensor) -> Tensor:
        """Return the merged weight; `weight` may be changed."""
        # peft keeps adapters in float32 whatever their files hold, unless the base is wider.
        wide = torch.promote_types(weight.dtype, torch.float32)
        product = self.b.read().to(wide) @ self.a.read().to(wide)
        change = (product.T if self.transposed else product) * self.scaling
        if self.magnitude is None:
            return weight.add_(change.to(weight.dtype) if self.embedding else change)
        return _with_magnitude(weight, change, self.magnitude.read().to(wide), self.transposed)

    def made_of(self, digest: Digest) -> object:
        """Return plain data that is equal for equal changes."""
        parts = [part and part.made_of(digest) for part in (self.a, self.b, self.magnitude)]
        return [*parts, self.scaling, self.transposed, self.embedding]


def _with_magnitude(weight: Tensor, change: Tensor, magnitude: Tensor, transposed: bool) -> Tensor:
    # Takes the norm of contiguous rows, as peft does: the order of a sum affects its bits.
    rows = weight.T + change.T if transposed else weight + change
    factor = magnitude / torch.linalg.norm(rows, dim=1)
    scale: Tensor = factor.view(1, -1) if transposed else factor.view(-1, 1)
    return (scale * (weight + change)).to(weight.dtype)


@dataclass(frozen=True)
class BiasChange:
    """The change of a bias: scaling · B's own bias."""

    bias: StoredTensor
    scaling: float

    def apply(self, weight: Tensor) -> Tensor:
        """Return the merged bias; `weight` may be changed."""
        return weight.add_(self.bias.read().to(torch.promote_types(weight.dtype, torch.float32)) * self.scaling)

    def made_of(self, digest: Digest) -> object:
        """Return plain data that is equal for equal changes."""
        return [self.bias.made_of(digest), self.scaling]


@dataclass(frozen=True)
class AdaptedTensor(StoredTensor):
    """A tensor of a base model with an adapter: replaced if the adapter has its own, then changed."""

    source: StoredTensor
    changes: tuple[LowRank | BiasChange, ...]

    def read(self) -> Tensor:
        """Read its parts and merge them."""
        with torch.no_grad():
            merged = self.source.read().to(self.dtype)
            for change in self.changes:
                merged = change.apply(merged)
            return merged

    def made_of(self, digest: Digest) -> object:
        """Return the identity of the base's tensor and of the changes."""
        changes = [change.made_of(digest) for change in self.changes]
        return ["adapted", _VERSION, str(self.dtype), self.source.made_of(digest), changes]
