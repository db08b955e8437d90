"""How a task vector is sparsified before it is merged: by magnitude (TIES) or with a random mask (DARE).

Guarantees: top-k keeps exactly the max(1, int(density · elements)) largest, as mergekit 0.1.5 does, and among equal
magnitudes those that come first. A random mask depends only on (seed, input, tensor, element).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from merging.arithmetic.bits import as_bits, bits_dtype
from merging.arithmetic.random_bits import keep_below, kept_below
from merging.methods.magnitudes import Edge, Magnitudes, locate, read_size
from merging.methods.operands import Block, Operands

# Sums of |x| are taken in runs of this many elements, each by one thread, so that they come out the same everywhere.
_SUM_RUN = 1 << 15
SMALLEST_NORM = 1e-7
"""The L1 norm below which a task vector is not rescaled."""

NO_FLOOR = Edge(0, -1.0, -1.0)
NO_CEILING = Edge(0, math.inf, math.inf)
KEEP_ALL_BELOW = 2**31


@dataclass(frozen=True, slots=True)
class Sparsification:
    """Which elements of a task vector are kept, and what the kept ones are multiplied by. The defaults keep all.

    With a `key` it is a random mask: an element is kept if its random number is below `limit`, or, by rank, below
    ``rank * slope + intercept`` in float32. Else it is kept if its magnitude lies above `floor` and not above
    `ceiling`.

    Attributes:
        floor: the magnitude that kept elements lie above.
        ceiling: the magnitude that they do not lie above.
        key: the keys of the elements' random numbers, which are in [0, 2**31).
        limit: smaller random numbers are kept.
        ranks: the ranks of all elements of the tensor, (elements,) int16 or int32, perhaps on the host.
        slope: the slope of the limit by rank.
        intercept: the intercept of the limit by rank.
        scale: what the kept elements are multiplied by.
        norm: the L1 norm that they are scaled to instead, if not zero; set only for a pass that computes the scale
            while it merges.
    """

    floor: Edge = NO_FLOOR
    ceiling: Edge = NO_CEILING
    key: tuple[int, int] | None = None
    limit: int = KEEP_ALL_BELOW
    ranks: Tensor | None = None
    slope: float = 0.0
    intercept: float = float(KEEP_ALL_BELOW)
    scale: float = 1.0
    norm: float = 0.0

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Sparsify, in place, the block of a task vector that starts at flat index `start`."""
        if self.key is None:
            self._apply_edges(delta, start)
        else:
            limits = self._limits(start, delta.numel(), delta.device)
            mask = keep_below(limits, self.key, start, delta.numel(), delta.device)
            as_bits(delta).bitwise_and_(mask.to(bits_dtype(delta.dtype)))
        return delta if self.scale == 1.0 else delta.mul_(self.scale)

    def widened(self, dtype: torch.dtype) -> Sparsification:
        """Return the sparsification that keeps the same elements before they are rounded to a dtype."""
        return replace(self, floor=self.floor.widened(dtype), ceiling=self.ceiling.widened(dtype))

    def _limits(self, start: int, count: int, device: torch.device) -> int | Tensor:
        if self.ranks is None:
            return self.limit
        ranks = self.ranks[start : start + count].to(device, non_blocking=True)
        return ranks.to(torch.float32).mul_(self.slope).add_(self.intercept).to(torch.int32)

    def _apply_edges(self, delta: Tensor, start: int) -> None:
        inner = sorted(min(max(edge.until - start, 0), delta.numel()) for edge in (self.floor, self.ceiling))
        for begin, end in pairwise([0, *inner, delta.numel()]):
            if begin == end:
                continue
            part, floor, ceiling = delta[begin:end], self.floor.at(start + begin), self.ceiling.at(start + begin)
            if floor >= 0:
                _shrink(part, floor, out=part)
            if ceiling < math.inf:
                part.sub_(_shrink(part, ceiling, out=torch.empty_like(part)))


def _shrink(values: Tensor, magnitude: float, out: Tensor) -> Tensor:
    # Sets to zero what is not larger; torch.nn.functional.hardshrink has no `out`.
    shrunk: Tensor = torch.ops.aten.hardshrink(values, magnitude, out=out)
    return shrunk


KEEP_NONE = Sparsification(floor=Edge(0, math.inf, math.inf))


def keep_all(operands: Operands, index: int, density: tuple[float, ...], rescale: bool) -> None:
    """Sparsify nothing."""


def top_k(operands: Operands, index: int, density: tuple[float, ...], rescale: bool) -> Sparsification | None:
    """Keep exactly the max(1, int(density · elements)) largest entries of a task vector.

    Step 1 of TIES's algorithm 1 (arXiv:2306.01708): trim. With `rescale` the kept elements are scaled so that the task
    vector keeps its L1 norm.
    """
    if density[index] >= 1 or operands.elements == 0:
        return None
    if density[index] <= 0:
        return KEEP_NONE
    floor = delta_magnitudes(operands, index).largest(max(1, int(density[index] * operands.elements)))
    if floor.after == 0:
        return None  # it would remove only zeros
    return operands.completed(index, Sparsification(floor=floor), rescale)


def random_mask(operands: Operands, index: int, density: tuple[float, ...], rescale: bool) -> Sparsification | None:
    """Keep each element with probability `density` (DARE, arXiv:2311.03099, eq. (1)).

    With `rescale` the kept elements are scaled so that the task vector keeps its L1 norm, as in mergekit; the paper
    divides them by the density.
    """
    if density[index] >= 1 or operands.elements == 0:
        return None
    if density[index] <= 0:
        return KEEP_NONE
    mask = Sparsification(key=operands.random_key(index), limit=kept_below(density[index]))
    return operands.completed(index, mask, rescale)


def delta_magnitudes(operands: Operands, index: int) -> Magnitudes:
    """Return the magnitudes of a task vector."""
    return Magnitudes.of("magnitudes", operands.for_masks, [index], lambda block: delta(block, index))


def delta_extremes(operands: Operands, index: int) -> tuple[float, float]:
    """Return the least and the greatest element of a task vector; NaN if it holds one."""
    return operands.once("extremes", [index], lambda: _extremes(delta for _, delta in deltas(operands, index)))


def base_extremes(operands: Operands) -> tuple[float, float]:
    """Return the least and the greatest element of the base; NaN if it holds one."""

    blocks = operands.blocks(read_size(operands))
    return operands.once("base_extremes", [], lambda: _extremes(block.base for block in blocks))


def _extremes(runs: Iterable[Tensor]) -> tuple[float, float]:
    pairs = [torch.aminmax(run) for run in runs]
    if not pairs:
        return 0.0, 0.0
    lowest, highest = (torch.stack(side) for side in zip(*pairs, strict=True))
    return float(lowest.amin()), float(highest.amax())


def located(operands: Operands, index: int, sparsification: Sparsification) -> Sparsification:
    """Return a sparsification of a task vector with its edges located, so that they have no rank."""

    def read(block: Block) -> Tensor:
        return delta(block, index)

    floor, ceiling = (locate(operands, read, edge) for edge in (sparsification.floor, sparsification.ceiling))
    return replace(sparsification, floor=floor, ceiling=ceiling)


def rescaled(operands: Operands, index: int, sparsification: Sparsification, after: float) -> Sparsification:
    """Return a sparsification that restores the L1 norm of a task vector, given the norm `after` sparsifying it."""
    return replace(sparsification, scale=_norm_ratio(whole_norm(operands, index), after, operands.dtype))


def whole_norm(operands: Operands, index: int) -> float:
    """Return the L1 norm of a task vector."""
    return operands.once("l1", [index], lambda: l1_norm(operands, index, None))


def _norm_ratio(before: float, after: float, dtype: torch.dtype) -> float:
    """Return one norm over another; 1 if either is nearly zero."""
    # The norms and their ratio are rounded to the dtype of the merge, as mergekit rounds them, if it can hold them.
    if before < SMALLEST_NORM or after < SMALLEST_NORM:
        return 1.0
    norms = torch.tensor([before, after], dtype=torch.float64)
    rounded = norms.to(dtype)
    norms = rounded if torch.isfinite(rounded).all() else norms
    return float(norms[0] / norms[1])


def l1_norm(operands: Operands, index: int, sparsification: Sparsification | None) -> float:
    """Return the L1 norm of a task vector, or of what is kept of it."""
    runs = deltas(operands, index)
    return math.fsum(_absolute_sum(sparsification.apply(run, start) if sparsification else run) for start, run in runs)


def _absolute_sum(delta: Tensor) -> float:
    whole = delta.numel() // _SUM_RUN * _SUM_RUN
    runs = delta[:whole].view(-1, _SUM_RUN).abs().sum(dim=1, dtype=torch.float64).tolist()
    return math.fsum([*runs, float(delta[whole:].abs().sum(dtype=torch.float64))])


def deltas(operands: Operands, index: int) -> Iterator[tuple[int, Tensor]]:
    """Yield a task vector in flat runs, each with the flat index of its first element."""
    return ((block.start, delta(block, index)) for block in operands.blocks(read_size(operands)))


def delta(block: Block, index: int) -> Tensor:
    """Return a block of a task vector, in memory of its own."""
    return block.inputs[index] - block.base
