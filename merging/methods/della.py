"""DELLA: a random drop in which larger changes are likelier to be kept (arXiv:2406.11617).

Guarantees: what is kept is a function of the task vector and of (seed, input, tensor, element) alone; ranks depend on
the parents alone and are computed once. Equal magnitudes are ranked in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.bits import as_bits, bits_dtype, magnitude_mask
from merging.methods.random_bits import keep_below
from merging.methods.registry import Number, Operands
from merging.methods.sparsify import NOTHING, Cut, delta, rescaled
from merging.native import task_vectors as native
from merging.statistics import forms

_RANKS = forms.tensor(version=1)
_LIMIT = 2.0**31 - 128  # the largest float32 that an int32 holds
# Elements that are ranked at once: sorting needs ten times the memory of what is sorted.
_RANKED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class RankedDrop:
    """Which elements of a task vector a random drop by rank keeps, and what the kept ones are multiplied by.

    An element is kept if its random number, in [0, 2**31), is below `rank * slope + intercept`, in float32.
    """

    ranks: Tensor  # (elements,), int16 or int32
    slope: float
    intercept: float
    key: tuple[int, int]
    scale: float = 1.0
    norm: float = 0.0

    @property
    def kind(self) -> native.Thinning:
        """What the kernels call this."""
        return native.Thinning.RANKED if self.ranks.dtype == torch.int16 else native.Thinning.RANKED_WIDE

    def native(self, dtype: torch.dtype, start: int) -> native.Part:  # noqa: ARG002 - as a cut has it
        """Return this drop as the kernels take it."""
        return native.Part(
            key=self.key,
            ranks=self.ranks[start:],
            slope=self.slope,
            intercept=self.intercept,
            scale=self.scale,
            norm=self.norm,
        )

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Thin out, in place, the block of a task vector that starts at flat index `start`."""
        ranks = self.ranks[start : start + delta.numel()]
        limits = ranks.to(torch.float32).mul_(self.slope).add_(self.intercept).to(torch.int32)
        mask = keep_below(limits, self.key, start, delta.numel(), delta.device)
        as_bits(delta).bitwise_and_(mask.to(bits_dtype(delta.dtype)))
        return delta if self.scale == 1.0 else delta.mul_(self.scale)


def draw_by_rank(
    operands: Operands, index: int, density: float, rescale: bool, epsilon: float
) -> RankedDrop | Cut | None:
    """Return a random drop that keeps an element with a probability that rises with the rank of its magnitude.

    Ranked within its row, the smallest has density - epsilon, the largest density + epsilon, both in (0, 1). With
    `rescale` the kept elements are scaled so that the L1 norm of the task vector stays what it was.
    """
    if density >= 1 or operands.elements == 0:
        return None
    if density <= 0:
        return NOTHING
    ranks = operands.once("ranks", [index], lambda: _ranks(operands, index), kept=_RANKS)
    last = _layout(operands.shape)[1] - 1
    least, step = (density - epsilon, 2 * epsilon / last) if last else (density, 0.0)
    drop = RankedDrop(ranks, step * _LIMIT, least * _LIMIT, operands.random_key(index))
    return rescaled(operands, index, drop) if rescale else drop


def refuse_probabilities(numbers: Mapping[str, Number | None]) -> str | None:
    """Return why a density and an epsilon make no probabilities, or None if they do (or one is not known yet)."""
    if numbers["density"] is None or numbers["epsilon"] is None:
        return None
    density, epsilon = float(numbers["density"]), float(numbers["epsilon"])
    if density >= 1 or density <= 0 or (density - epsilon > 0 and density + epsilon < 1):
        return None
    return (
        f"density {density:g} and epsilon {epsilon:g} give probabilities from {density - epsilon:g} to "
        f"{density + epsilon:g}, which must lie within (0, 1); choose an epsilon below {min(density, 1 - density):g}"
    )


def _layout(shape: torch.Size) -> tuple[int, int, int]:
    # As in mergekit 0.1.5: a vector is one row, and ranks go along the second axis of all else.
    if len(shape) < 2:
        return 1, shape.numel(), 1
    return shape[0], shape[1], shape[2:].numel()


def _ranks(operands: Operands, index: int) -> Tensor:
    """Return the rank, from 0, that the magnitude of each element has in its row; flat, int16 where that will do."""
    rows, row, inner = _layout(operands.shape)
    rows_at_once = max(1, _RANKED_AT_ONCE // (row * inner))
    parts = []
    for first in range(0, rows, rows_at_once):
        block = operands.block(first * row * inner, rows_at_once * row * inner)
        magnitudes = (as_bits(delta(block, index)) & magnitude_mask(operands.dtype)).view(-1, row, inner)
        order = magnitudes.sort(dim=1, stable=True).indices
        places = torch.arange(row, dtype=torch.int16 if row <= 2**15 else torch.int32, device=order.device)
        ranks = torch.empty_like(order, dtype=places.dtype)
        parts.append(ranks.scatter_(1, order, places.view(1, row, 1).expand_as(order)).flatten())
    return torch.cat(parts)
