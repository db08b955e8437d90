"""Linear: the weighted average of the parents (arXiv:2203.05482)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerInput, Shared
from merging.methods.operands import Block, Operands
from merging.methods.registry import Undefined, method


def nonzero(total: Tensor, switch: str = "normalize") -> Tensor:
    """Return the sum of the weights, shape (). Raises Undefined if it is zero."""
    if not total:
        raise Undefined(f"the weights sum to zero, and {switch} divides by their sum; change one, or turn {switch} off")
    return total


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The weight of each parent, and the divisor of the sum, if any, as float32 (or float64) holds them."""

    weights: tuple[float, ...]
    divisor: float | None = None


def average(operands: Operands, weight: PerInput[float], normalize: Shared[bool] = Default(True)) -> WeightedSum:
    """Return the weights, and their sum if `normalize`."""
    weights = torch.tensor(weight, dtype=torch.promote_types(operands.dtype, torch.float32))
    divisor = float(nonzero(weights.sum())) if normalize else None
    return WeightedSum(tuple(weights.tolist()), divisor)


@method("linear", source="arXiv:2203.05482", prepare=average)
def linear(block: Block, average: WeightedSum) -> Tensor:
    """Return sum(weight * parent), over sum(weight) if `normalize`; summed in float32 or wider."""
    first = block.inputs[0]
    total = block.workspace.like(first, torch.promote_types(first.dtype, torch.float32)).zero_()
    widened = block.workspace.like(total)
    for parent, weight in zip(block.inputs, total.new_tensor(average.weights), strict=True):
        total.addcmul_(widened.copy_(parent), weight)  # Σ α_i θ_i; the uniform soup if the weights are equal
    if average.divisor is not None:
        # A tensor: a GPU would multiply by the reciprocal of a number.
        total.div_(total.new_tensor(average.divisor))
    return block.workspace.like(total, first.dtype).copy_(total)
