"""How a task vector is thinned out before it is merged: by magnitude (TIES) or at random (DARE).

Guarantees: trimming keeps exactly the max(1, int(density · elements)) largest, as mergekit 0.1.5 does, and among equal
magnitudes those that come first. Dropping is a function of (seed, input, tensor, element) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merging.methods.bits import as_bits, bits_dtype, bits_of, number_of
from merging.methods.magnitudes import RUN, Magnitudes
from merging.methods.random_bits import keep_mask
from merging.methods.registry import Block, Operands

# Sums of |x| are taken in runs of this many elements, each by one thread, so that they come out the same everywhere.
_SUM_RUN = 1 << 15
_SMALLEST_NORM = 1e-7


@dataclass(frozen=True, slots=True)
class Cut:
    """Which elements of a task vector trimming keeps, and what the kept ones are multiplied by.

    Kept are those with |x| > `threshold`, and those equal to it whose flat index is below `equal_until`. `None` in
    place of a cut keeps all.
    """

    threshold: float
    equal_until: int
    scale: float = 1.0

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Trim, in place, the block of a task vector that starts at flat index `start`."""
        kept = self._trim(delta, start)
        return kept if self.scale == 1.0 else kept.mul_(self.scale)

    def _trim(self, delta: Tensor, start: int) -> Tensor:
        boundary = min(max(self.equal_until - start, 0), delta.numel())
        if boundary:
            _shrink(delta[:boundary], number_of(bits_of(self.threshold, delta.dtype) - 1, delta.dtype))
        if boundary < delta.numel():
            _shrink(delta[boundary:], self.threshold)
        return delta


def _shrink(values: Tensor, threshold: float) -> None:
    # torch.nn.functional.hardshrink has no `out`.
    torch.ops.aten.hardshrink(values, threshold, out=values)


NOTHING = Cut(math.inf, 0)
"""The cut that keeps no element."""


def keep_all(operands: Operands, index: int, density: float, rescale: bool) -> None:
    """Thin nothing out."""


def find_cut(operands: Operands, index: int, density: float, rescale: bool) -> Cut | None:
    """Return the cut that keeps exactly max(1, int(density · elements)) entries of a task vector (arXiv:2306.01708).

    With `rescale` the kept elements are scaled so that the L1 norm of the task vector stays what it was.
    """
    if density >= 1 or operands.elements == 0:
        return None
    if density <= 0:
        return NOTHING
    boundary = delta_magnitudes(operands, index).largest(max(1, int(density * operands.elements)))
    if boundary.magnitude == 0:
        return None  # all that is cut is zero
    cut = Cut(boundary.magnitude, boundary.equal_until)
    return replace(cut, scale=norm_ratio(operands, index, cut.apply)) if rescale else cut


def delta_magnitudes(operands: Operands, index: int) -> Magnitudes:
    """Return the magnitudes of a task vector."""
    return Magnitudes.of("magnitudes", operands, [index], lambda block: delta(block, index))


@dataclass(frozen=True, slots=True)
class Drop:
    """Which elements of a task vector a random drop keeps, and what the kept ones are multiplied by."""

    mask: Tensor  # (elements,), integers of the width of the dtype of the merge; all bits set, or none
    scale: float = 1.0

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Thin out, in place, the block of a task vector that starts at flat index `start`."""
        as_bits(delta).bitwise_and_(self.mask[start : start + delta.numel()])
        return delta if self.scale == 1.0 else delta.mul_(self.scale)


def draw(operands: Operands, index: int, density: float, rescale: bool) -> Drop | Cut | None:
    """Return a random drop that keeps each element with probability `density` (DARE, arXiv:2311.03099).

    With `rescale` the kept elements are scaled so that the L1 norm of the task vector stays what it was.
    """
    if density >= 1 or operands.elements == 0:
        return None
    if density <= 0:
        return NOTHING
    key = operands.random_key(index)
    device = operands.block(0, 1).inputs[index].device
    drop = Drop(torch.empty(operands.elements, dtype=bits_dtype(operands.dtype), device=device))
    for start in range(0, operands.elements, RUN):
        part = drop.mask[start : start + RUN]
        part.copy_(keep_mask(density, key, start, len(part), device))
    return replace(drop, scale=norm_ratio(operands, index, drop.apply)) if rescale else drop


def delta_extremes(operands: Operands, index: int) -> tuple[float, float]:
    """Return the least and the greatest element of a task vector; NaN where it holds one."""

    def extremes() -> tuple[float, float]:
        if operands.elements == 0:
            return 0.0, 0.0
        pairs = [torch.aminmax(delta) for _, delta in deltas(operands, index)]
        lowest, highest = (torch.stack(side) for side in zip(*pairs, strict=True))
        return float(lowest.amin()), float(highest.amax())

    return operands.once("extremes", [index], extremes)


def norm_ratio(operands: Operands, index: int, apply: Callable[[Tensor, int], Tensor]) -> float:
    """Return the L1 norm of a task vector over that of what `apply` leaves of it; 1 where either is next to nothing.

    `apply` thins out, in place, the block of a task vector that starts at a flat index.
    """
    # The norms and their ratio are rounded to the dtype of the merge, as mergekit rounds them, if it can hold them.
    before = operands.once("l1", [index], lambda: math.fsum(_absolute_sum(d) for _, d in deltas(operands, index)))
    after = math.fsum(_absolute_sum(apply(delta, start)) for start, delta in deltas(operands, index))
    if before < _SMALLEST_NORM or after < _SMALLEST_NORM:
        return 1.0
    norms = torch.tensor([before, after], dtype=torch.float64)
    rounded = norms.to(operands.dtype)
    norms = rounded if torch.isfinite(rounded).all() else norms
    return float(norms[0] / norms[1])


def _absolute_sum(delta: Tensor) -> float:
    whole = delta.numel() // _SUM_RUN * _SUM_RUN
    runs = delta[:whole].view(-1, _SUM_RUN).abs().sum(dim=1, dtype=torch.float64).tolist()
    return math.fsum([*runs, float(delta[whole:].abs().sum(dtype=torch.float64))])


def deltas(operands: Operands, index: int) -> Iterator[tuple[int, Tensor]]:
    """Yield a task vector in flat runs, each with the flat index of its first element."""
    return ((block.start, delta(block, index)) for block in operands.blocks(RUN))


def delta(block: Block, index: int) -> Tensor:
    """Return a block of a task vector, in memory of its own."""
    assert block.base is not None
    return block.inputs[index] - block.base
