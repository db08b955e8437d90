"""How a task vector is thinned out before it is merged: by magnitude (TIES) or at random (DARE).

Guarantees: trimming keeps exactly the max(1, int(density · elements)) largest, as mergekit 0.1.5 does, and among equal
magnitudes those that come first. Dropping is a function of (seed, input, tensor, element) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from merging.inductor import TensorKernels
from merging.methods.bits import as_bits, bits_dtype, bits_of, number_of
from merging.methods.magnitudes import Magnitudes, read_size
from merging.methods.random_bits import keep_mask, kept_below
from merging.methods.registry import Block, Operands
from merging.native import Kernels
from merging.native import task_vectors as native

# Sums of |x| are taken in runs of this many elements, each by one thread, so that they come out the same everywhere.
_SUM_RUN = 1 << 15
# As many, when a kernel sums; 16-bit sums are exact even then, but for elements a millionth as large as the largest.
_FUSED_RUN = 1 << 22
_SMALLEST_NORM = 1e-7

Scaled = TypeVar("Scaled", bound=Any)  # a thinning that is a dataclass


class Thinning(Protocol):
    """What is left of a task vector."""

    @property
    def kind(self) -> native.Thinning:
        """What the kernels call this way of thinning."""

    @property
    def scale(self) -> float:
        """What the kept elements are multiplied by."""

    @property
    def norm(self) -> float:
        """What their L1 norm is to become instead, where that is not zero; for kernels on a device alone."""

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Thin out, in place, the block of a task vector that starts at flat index `start`."""

    def native(self, dtype: torch.dtype, start: int) -> native.Part:
        """Return this thinning as the kernels take it, for a block that starts at flat index `start`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which elements of a task vector trimming keeps, and what the kept ones are multiplied by.

    Kept are those with |x| > `threshold`, and those equal to it whose flat index is below `equal_until` (and the first
    `rank` of those after it). `None` in place of a cut keeps all.
    """

    threshold: float
    equal_until: int
    scale: float = 1.0
    rank: int = 0
    norm: float = 0.0
    kind: ClassVar = native.Thinning.CUT

    def native(self, dtype: torch.dtype, start: int) -> native.Part:
        """Return this cut as the kernels take it."""
        below = number_of(bits_of(self.threshold, dtype) - 1, dtype)
        floor = native.Edge(self.equal_until - start, below, self.threshold, self.rank)
        return native.Part(floor=floor, scale=self.scale, norm=self.norm)

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
    cut = Cut(boundary.magnitude, boundary.equal_until, rank=boundary.rank)
    return rescaled(operands, index, cut) if rescale else cut


def delta_magnitudes(operands: Operands, index: int) -> Magnitudes:
    """Return the magnitudes of a task vector."""

    def find(block: Block, magnitude: float, rank: int) -> int:
        assert isinstance(operands.kernels, Kernels)
        assert block.base is not None
        return native.nth_equal(operands.kernels, block.base, block.inputs[index], magnitude, rank)

    return Magnitudes.of(
        "magnitudes",
        operands,
        [index],
        lambda block: delta(block, index),
        find if isinstance(operands.kernels, Kernels) else None,
        ranked=isinstance(operands.kernels, TensorKernels),
    )


@dataclass(frozen=True, slots=True)
class Drop:
    """Which elements of a task vector a random drop keeps, and what the kept ones are multiplied by."""

    density: float
    key: tuple[int, int]
    scale: float = 1.0
    norm: float = 0.0
    kind: ClassVar = native.Thinning.DROP

    def native(self, dtype: torch.dtype, start: int) -> native.Part:  # noqa: ARG002 - as a cut has it
        """Return this drop as the kernels take it."""
        return native.Part(key=self.key, limit=kept_below(self.density), scale=self.scale, norm=self.norm)

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
    return rescaled(operands, index, drop) if rescale else drop


def delta_extremes(operands: Operands, index: int) -> tuple[float, float]:
    """Return the least and the greatest element of a task vector; NaN where it holds one."""

    def extremes() -> tuple[float, float]:
        return _extremes(delta for _, delta in deltas(operands, index))

    return operands.once("extremes", [index], extremes)


def base_extremes(operands: Operands) -> tuple[float, float]:
    """Return the least and the greatest element of the base; NaN where it holds one."""

    def extremes() -> tuple[float, float]:
        blocks = operands.blocks(read_size(operands))
        return _extremes(block.base for block in blocks if block.base is not None)

    return operands.once("base_extremes", [], extremes)


def _extremes(runs: Iterable[Tensor]) -> tuple[float, float]:
    pairs = [torch.aminmax(run) for run in runs]
    if not pairs:
        return 0.0, 0.0
    lowest, highest = (torch.stack(side) for side in zip(*pairs, strict=True))
    return float(lowest.amin()), float(highest.amax())


def rescaled(operands: Operands, index: int, thinning: Scaled) -> Scaled:
    """Return a thinning that keeps the L1 norm of the task vector what it was.

    Kernels on a device find the scale themselves, in the pass that merges: the host would have to wait for it.
    """
    if isinstance(operands.kernels, TensorKernels):
        return replace(thinning, norm=_whole_l1(operands, index))
    return replace(thinning, scale=norm_ratio(operands, index, thinning))


def norm_ratio(operands: Operands, index: int, thinning: Thinning) -> float:
    """Return the L1 norm of a task vector over that of what is left of it; 1 where either is next to nothing."""
    # The norms and their ratio are rounded to the dtype of the merge, as mergekit rounds them, if it can hold them.
    before = _whole_l1(operands, index)
    after = _l1(operands, index, thinning)
    if before < _SMALLEST_NORM or after < _SMALLEST_NORM:
        return 1.0
    norms = torch.tensor([before, after], dtype=torch.float64)
    rounded = norms.to(operands.dtype)
    norms = rounded if torch.isfinite(rounded).all() else norms
    return float(norms[0] / norms[1])


def _whole_l1(operands: Operands, index: int) -> float:
    return operands.once("l1", [index], lambda: _l1(operands, index, None))


def _l1(operands: Operands, index: int, thinning: Thinning | None) -> float:
    if thinning and isinstance(operands.kernels, Kernels):
        return math.fsum(_fused_sum(operands.kernels, block, index, thinning) for block in operands.blocks(_FUSED_RUN))
    runs = deltas(operands, index)
    return math.fsum(_absolute_sum(thinning.apply(run, start) if thinning else run) for start, run in runs)


def _fused_sum(kernels: Kernels, block: Block, index: int, thinning: Thinning) -> float:
    assert block.base is not None
    part = thinning.native(block.base.dtype, block.start)
    return native.absolute_sum(kernels, thinning.kind, block.base, block.inputs[index], part, block.start)


def _absolute_sum(delta: Tensor) -> float:
    whole = delta.numel() // _SUM_RUN * _SUM_RUN
    runs = delta[:whole].view(-1, _SUM_RUN).abs().sum(dim=1, dtype=torch.float64).tolist()
    return math.fsum([*runs, float(delta[whole:].abs().sum(dtype=torch.float64))])


def deltas(operands: Operands, index: int) -> Iterator[tuple[int, Tensor]]:
    """Yield a task vector in flat runs, each with the flat index of its first element."""
    return ((block.start, delta(block, index)) for block in operands.blocks(read_size(operands)))


def delta(block: Block, index: int) -> Tensor:
    """Return a block of a task vector, in memory of its own."""
    assert block.base is not None
    return block.inputs[index] - block.base
