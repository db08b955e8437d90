"""Breadcrumbs: a task vector without its largest changes, and without its smallest (arXiv:2312.06795).

Guarantees: keeps the elements that mergekit 0.1.5 keeps where its sort leaves equals in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from merging.methods.bits import bits_of, number_of
from merging.methods.magnitudes import Boundary
from merging.methods.registry import Operands
from merging.methods.sparsify import NOTHING, Cut, delta_magnitudes, rescaled
from merging.native import task_vectors as native


@dataclass(frozen=True, slots=True)
class Band:
    """Which elements of a task vector are neither too small nor too large, and what they are multiplied by.

    Dropped are those on the near side of `floor`, and those on the far side of `ceiling`; None where nothing is.
    """

    floor: Boundary | None
    ceiling: Boundary | None
    scale: float = 1.0
    norm: float = 0.0
    kind: ClassVar = native.Thinning.BAND

    def native(self, dtype: torch.dtype, start: int) -> native.Part:
        """Return this band as the kernels take it."""
        floor, ceiling = (
            native.Edge(
                side.equal_until - start, side.magnitude, _last_within(side, side.equal_until, dtype), side.rank
            )
            if side
            else nothing
            for side, nothing in ((self.floor, native.NO_FLOOR), (self.ceiling, native.NO_CEILING))
        )
        return native.Part(floor=floor, ceiling=ceiling, scale=self.scale, norm=self.norm)

    def apply(self, delta: Tensor, start: int) -> Tensor:
        """Thin out, in place, the block of a task vector that starts at flat index `start`."""
        sides = [side for side in (self.floor, self.ceiling) if side is not None]
        inner = sorted(min(max(side.equal_until - start, 0), delta.numel()) for side in sides)
        for begin, end in zip([0, *inner], [*inner, delta.numel()], strict=True):
            if begin < end:
                self._thin(delta[begin:end], start + begin)
        return delta if self.scale == 1.0 else delta.mul_(self.scale)

    def _thin(self, part: Tensor, start: int) -> None:
        # A part that no boundary's index divides: each boundary is one magnitude there.
        if self.floor is not None:
            _shrink(part, _last_within(self.floor, start, part.dtype), out=part)
        if self.ceiling is not None:
            too_large = torch.empty_like(part)
            part.sub_(_shrink(part, _last_within(self.ceiling, start, part.dtype), out=too_large))


def find_band(operands: Operands, index: int, density: float, rescale: bool, gamma: float) -> Band | Cut | None:
    """Return the band that keeps int(density · elements) entries of a task vector, below its largest.

    Dropped first are the int(gamma · elements) largest, then the smallest; where that would leave fewer than the
    density asks for, fewer of the largest. A density of 1 keeps all, whatever gamma is. With `rescale` the kept
    elements are scaled so that the L1 norm of the task vector stays what it was.
    """
    elements = operands.elements
    if density >= 1 or elements == 0:
        return None
    kept = int(density * elements)
    if kept <= 0:
        return NOTHING
    smallest = max(0, elements - kept - int(gamma * elements))
    magnitudes = delta_magnitudes(operands, index)
    band = Band(
        magnitudes.smallest(smallest) if smallest else None,
        magnitudes.smallest(smallest + kept) if smallest + kept < elements else None,
    )
    return rescaled(operands, index, band) if rescale else band


def _last_within(side: Boundary, start: int, dtype: torch.dtype) -> float:
    """Return the largest magnitude that lies on the near side of a boundary, for a part that starts at `start`."""
    if side.magnitude == 0 or start < side.equal_until:
        return side.magnitude
    return number_of(bits_of(side.magnitude, dtype) - 1, dtype)


def _shrink(values: Tensor, magnitude: float, out: Tensor) -> Tensor:
    # Sets to zero what is not larger; torch.nn.functional.hardshrink has no `out`.
    shrunk: Tensor = torch.ops.aten.hardshrink(values, magnitude, out=out)
    return shrunk
