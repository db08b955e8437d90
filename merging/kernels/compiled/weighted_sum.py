"""A weighted sum of parents in float32, rounded once: what linear and slerp do (kernels/native/weighted_sum.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from merging.kernels.compiled.rounding import fma


@dataclass(frozen=True, slots=True)
class SumForm:
    """What a weighted sum is compiled for, besides its tensors."""

    divide: bool
    fma: bool


def weighted_sum(form: SumForm, parents: Sequence[Tensor], numbers: Tensor, out: Tensor) -> None:
    """Write the weighted sum into `out`.

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
    out.copy_((total / numbers[-1] if form.divide else total).to(out.dtype))
