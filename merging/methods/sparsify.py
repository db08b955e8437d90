"""How a task vector is thinned out before it is merged: by magnitude (TIES) or at random (DARE).

Guarantees: trimming keeps exactly the max(1, int(density · elements)) largest, as mergekit 0.1.5 does, and among equal
magnitudes those that come first. Dropping is a function of (seed, input, tensor, element) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merging.methods.bits import as_bits, bits_dtype, bits_of, number_of
from merging.methods.random_bits import keep_mask, kept_below
from merging.methods.registry import Block, Operands
from merging.native import Kernels
from merging.native import task_vectors as native
from merging.statistics import MagnitudeTable, Place, magnitude_bins, magnitude_table

# Elements that are read at once; also the runs in which a magnitude table counts.
_RUN = 1 << 16
# Sums of |x| are taken in runs of this many elements, each by one thread, so that they come out the same everywhere.
_SUM_RUN = 1 << 15
# As many, when a kernel sums; 16-bit sums are exact even then, but for elements a millionth as large as the largest.
_FUSED_RUN = 1 << 22
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

    def native(self, dtype: torch.dtype, start: int) -> native.Part:
        """Return this cut as the kernels take it, for a block that starts at flat index `start`."""
        below = number_of(bits_of(self.threshold, dtype) - 1, dtype)
        return native.Part(equal_until=self.equal_until - start, before=below, after=self.threshold, scale=self.scale)

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
    cut = _find_cut(operands, index, density)
    if cut.threshold == 0:
        return None  # all that is cut is zero
    if not rescale:
        return cut
    return replace(cut, scale=_scale(operands, index, cut))


def _find_cut(operands: Operands, index: int, density: float) -> Cut:
    table: MagnitudeTable = operands.once(
        "magnitudes", [index], lambda: magnitude_table(delta for _, delta in _deltas(operands, index))
    )
    place = table.place_of(max(1, int(density * operands.elements)))
    if operands.dtype.itemsize > 2:
        return _cut_within_bin(operands, index, place)
    threshold = number_of(place.bin, operands.dtype)  # every element of the bin has this magnitude
    if place.rank == place.count:
        return Cut(threshold, operands.elements)
    run, rank = table.run_of(place)
    block = operands.block(run * _RUN, _RUN)
    if operands.kernels and block.base is not None:
        form = native.Form(parents=1, dtype=operands.dtype, drop=False)
        position = native.nth_equal(operands.kernels, form, block.base, block.inputs[index], threshold, rank)
        return Cut(threshold, block.start + position + 1)
    delta = _delta(block, index)
    # NumPy compares 16-bit integers ten times as fast as torch does.
    (equal,) = (magnitude_bins(delta).numpy(force=True) == place.bin).nonzero()
    return Cut(threshold, run * _RUN + int(equal[rank - 1]) + 1)


def _cut_within_bin(operands: Operands, index: int, place: Place) -> Cut:
    magnitudes, positions = [], []
    for start, delta in _deltas(operands, index):
        (inside,) = (magnitude_bins(delta) == place.bin).nonzero(as_tuple=True)
        magnitudes.append(delta[inside].abs())
        positions.append(inside + start)
    ranked, order = torch.cat(magnitudes).sort(descending=True, stable=True)
    threshold = float(ranked[place.rank - 1])
    first_equal = int(torch.count_nonzero(ranked > threshold))
    return Cut(threshold, int(torch.cat(positions)[order[first_equal : place.rank]].max()) + 1)


@dataclass(frozen=True, slots=True)
class Drop:
    """Which elements of a task vector a random drop keeps, and what the kept ones are multiplied by."""

    density: float
    key: tuple[int, int]
    scale: float = 1.0

    def native(self, dtype: torch.dtype, start: int) -> native.Part:  # noqa: ARG002 - as a cut has it
        """Return this drop as the kernels take it."""
        key, second_key = self.key
        limit = kept_below(self.density)
        return native.Part(equal_until=0, key=key, second_key=second_key, limit=limit, scale=self.scale)

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Thin out, in place, the block of a task vector that starts at flat index `start`."""
        mask = keep_mask(self.density, self.key, start, delta.numel(), delta.device)
        as_bits(delta).bitwise_and_(mask.to(bits_dtype(delta.dtype)))
        return delta if self.scale == 1.0 else delta.mul_(self.scale)


def draw(operands: Operands, index: int, density: float, rescale: bool) -> Drop | Cut | None:
    """Return a random drop that keeps each element with probability `density` (DARE, arXiv:2311.03099).

    With `rescale` the kept elements are scaled so that the L1 norm of the task vector stays what it was.
    """
    if density >= 1 or operands.elements == 0:
        return None
    if density <= 0:
        return NOTHING
    drop = Drop(density, operands.random_key(index))
    return replace(drop, scale=_scale(operands, index, drop)) if rescale else drop


def delta_extremes(operands: Operands, index: int) -> tuple[float, float]:
    """Return the least and the greatest element of a task vector; NaN where it holds one."""

    def extremes() -> tuple[float, float]:
        pairs = [torch.aminmax(delta) for _, delta in _deltas(operands, index)]
        lowest, highest = (torch.stack(side) for side in zip(*pairs, strict=True))
        return float(lowest.amin()), float(highest.amax())

    return operands.once("extremes", [index], extremes)


def _scale(operands: Operands, index: int, thinning: Cut | Drop) -> float:
    # The norms and their ratio are rounded to the dtype of the merge, as mergekit rounds them, if it can hold them.
    before = operands.once("l1", [index], lambda: _l1(operands, index, None))
    after = _l1(operands, index, thinning)
    if before < _SMALLEST_NORM or after < _SMALLEST_NORM:
        return 1.0
    norms = torch.tensor([before, after], dtype=torch.float64)
    rounded = norms.to(operands.dtype)
    norms = rounded if torch.isfinite(rounded).all() else norms
    return float(norms[0] / norms[1])


def _l1(operands: Operands, index: int, thinning: Cut | Drop | None) -> float:
    if thinning and operands.kernels:
        return math.fsum(_fused_sum(operands.kernels, block, index, thinning) for block in operands.blocks(_FUSED_RUN))
    deltas = _deltas(operands, index)
    return math.fsum(_absolute_sum(thinning.apply(delta, start) if thinning else delta) for start, delta in deltas)


def _fused_sum(kernels: Kernels, block: Block, index: int, thinning: Cut | Drop) -> float:
    assert block.base is not None
    form = native.Form(parents=1, dtype=block.base.dtype, drop=isinstance(thinning, Drop))
    part = thinning.native(block.base.dtype, block.start)
    part.parent = block.inputs[index].data_ptr()
    return native.absolute_sum(kernels, form, block.base, part, block.start)


def _absolute_sum(delta: Tensor) -> float:
    whole = delta.numel() // _SUM_RUN * _SUM_RUN
    runs = delta[:whole].view(-1, _SUM_RUN).abs().sum(dim=1, dtype=torch.float64).tolist()
    return math.fsum([*runs, float(delta[whole:].abs().sum(dtype=torch.float64))])


def _deltas(operands: Operands, index: int) -> Iterator[tuple[int, Tensor]]:
    return ((block.start, _delta(block, index)) for block in operands.blocks(_RUN))


def _delta(block: Block, index: int) -> Tensor:
    assert block.base is not None
    return block.inputs[index] - block.base
