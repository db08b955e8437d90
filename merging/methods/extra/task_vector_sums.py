"""Weighted sums of task vectors, or of what a method makes of them, added to the base.

The methods of this package share these. Guarantees: a parent whose weight is zero counts as absent; everything is
computed in float32 (float64 for float64 merges) and rounded to the dtype of the merge once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.operands import Block, Operands
from merging.statistics.forms import Form


@dataclass(frozen=True, slots=True)
class TaskVectorSum:
    """A weighted sum of task vectors, which is added to the base.

    Attributes:
        factors: one number per part, or per input where there are no parts.
        parts: flat tensors in the wide dtype, (parts, elements); None for the task vectors of the inputs.
    """

    factors: tuple[float, ...]
    parts: Tensor | None = None


def plus_base(block: Block, change: TaskVectorSum) -> Tensor:
    """Return the base plus a change, in the dtype of the block."""
    base = block.workspace.like(block.base, wide(block.base.dtype)).copy_(block.base)
    total, part = block.workspace.like(base).copy_(base), block.workspace.like(base)
    for index, factor in enumerate(change.factors):
        if factor == 0:
            continue
        if change.parts is None:
            total.add_(part.copy_(block.inputs[index]).sub_(base), alpha=factor)
        else:
            total.add_(block.part(change.parts[index]), alpha=factor)
    return block.workspace.like(block.base).copy_(total)


def mean_task_vector(weights: Sequence[float], scale: float) -> TaskVectorSum:
    """Return `scale` times the mean of the weighted task vectors of the parents that take part."""
    count = len(taking_part(weights))
    return TaskVectorSum(tuple(scale * weight / count if count else 0.0 for weight in weights))


def taking_part(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of the inputs whose weight is not zero."""
    return tuple(index for index, weight in enumerate(weights) if weight != 0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def wide_vectors(operands: Operands, inputs: Sequence[int]) -> Tensor:
    """Return the task vectors of some inputs, (inputs, *shape), in the wide dtype."""
    block = operands.whole()
    base = block.base.to(wide(operands.dtype))
    return torch.stack([block.inputs[index].to(base.dtype, copy=True).sub_(base) for index in inputs])


def made_of_task_vectors(
    operands: Operands,
    name: str,
    inputs: Sequence[int],
    values: Hashable,
    make: Callable[[Tensor], Tensor],
    kept: Form[Tensor | None],
) -> Tensor | None:
    """Return what a method makes of the task vectors of some inputs, or None if one of them is not finite.

    Args:
        operands: the operands of the merge step.
        name: the name of what is made.
        inputs: the indices of the inputs.
        values: the parameter values that it also depends on; it is made again when they change.
        make: makes it from the task vectors, (inputs, *shape), in the wide dtype; it may change them.
        kept: its form on disk.
    """

    def compute() -> Tensor | None:
        vectors = wide_vectors(operands, inputs)
        return make(vectors) if vectors.isfinite().all() else None

    return operands.last(name, inputs, values, compute, kept)
