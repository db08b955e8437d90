"""Shifts: task vectors in float32, as they are or made over, which are weighed, added to the base and rounded once.

What the methods have in common that mergekit does not know. Guarantees: a parent whose weight is zero is as if it were
not there; all is computed in float32 (or float64, where the merge is) and rounded to the dtype of the merge at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.registry import Block, Numbers, Operands, Parameter, Scope
from merging.statistics.forms import Form

WEIGHT = Parameter("weight", float, Scope.NON_BASE, default=1.0)
SCALE = Parameter("lambda", float, Scope.SHARED, default=1.0)


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to the base: a weighted sum.

    Attributes:
        factors: a number each of `parts`, or each input where there are none.
        parts: flat tensors in the wide dtype, (parts, elements); None for the task vectors of the inputs.
    """

    factors: tuple[float, ...]
    parts: Tensor | None = None


def shifted(block: Block, shift: Shift) -> Tensor:
    """Return the base plus the shift, in the dtype of the block."""
    assert block.base is not None
    base = block.scratch.like(block.base, wide(block.base.dtype)).copy_(block.base)
    total, part = block.scratch.like(base).copy_(base), block.scratch.like(base)
    for index, factor in enumerate(shift.factors):
        if factor == 0:
            continue
        if shift.parts is None:
            total.add_(part.copy_(block.inputs[index]).sub_(base), alpha=factor)
        else:
            total.add_(shift.parts[index, block.start : block.start + len(block)], alpha=factor)
    return block.scratch.like(block.base).copy_(total)


def mean_shift(numbers: Numbers) -> Shift:
    """Return lambda times the mean of the weighted task vectors of the parents that take part."""
    weights, scale = numbers.each("weight"), numbers.number("lambda")
    count = len(taking_part(weights))
    return Shift(tuple(scale * weight / count if count else 0.0 for weight in weights))


def taking_part(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of the inputs whose weight is not zero."""
    return tuple(index for index, weight in enumerate(weights) if weight != 0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32, or float64 for that."""
    return torch.promote_types(dtype, torch.float32)


def wide_vectors(operands: Operands, inputs: Sequence[int]) -> Tensor:
    """Return the task vectors of some inputs, (inputs, *shape), in the wide dtype."""
    block = operands.whole()
    assert block.base is not None
    base = block.base.to(wide(operands.dtype))
    return torch.stack([block.inputs[index].to(base.dtype, copy=True).sub_(base) for index in inputs])


def made_over(
    operands: Operands,
    name: str,
    inputs: Sequence[int],
    numbers: Hashable,
    make: Callable[[Tensor], Tensor],
    kept: Form[Tensor | None],
) -> Tensor | None:
    """Return what a method makes of the task vectors of some inputs, or None if one of them is not finite.

    Args:
        operands: whose inputs.
        name: what is made.
        inputs: their indices.
        numbers: what it depends on besides; it is made again when they are not those of the last call.
        make: makes it of the task vectors, (inputs, *shape), in the wide dtype, which may be changed.
        kept: its form on disk.
    """

    def compute() -> Tensor | None:
        vectors = wide_vectors(operands, inputs)
        return make(vectors) if vectors.isfinite().all() else None

    return operands.last(name, inputs, numbers, compute, kept)
