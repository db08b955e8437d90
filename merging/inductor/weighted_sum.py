"""A weighted sum of parents in float32, rounded once: what linear and slerp do (merging/native/weighted_sum.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from merging.inductor.rounding import all_finite, fma


@dataclass(frozen=True, slots=True)
class SumForm:
    """What a weighted sum is compiled for, besides its tensors."""

    divide: bool
    fma: bool
    in_rows: bool


def weighted_sum(form: SumForm, parents: Sequence[Tensor], numbers: Tensor, out: Tensor) -> Tensor:
    """Write the weighted sum into `out`; return whether all of it is finite, () bool.

    Args:
        form: whether the sum is divided, and whether products are added unrounded.
        parents: (elements,) each, of one dtype.
        numbers: (parents + 1,) float32, the weights and then the divisor.
        out: (elements,), of that dtype.
    """
    total = parents[0].float() * numbers[0]
    for index, parent in enumerate(parents[1:], start=1):
        wide = parent.float()
        total = fma(wide, numbers[index], total) if form.fma else total + wide * numbers[index]
    merged = (total / numbers[-1] if form.divide else total).to(out.dtype)
    out.copy_(merged)
    return all_finite(merged, form.in_rows)
