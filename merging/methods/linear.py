"""Linear: the weighted average of the parents (arXiv:2203.05482)."""

from __future__ import annotations

import torch
from torch import Tensor

from merging.inductor import AnyKernels, TensorKernels
from merging.methods.bits import all_finite
from merging.methods.registry import Block, Finite, Numbers, Parameter, Scope, Undefined, method
from merging.native.weighted_sum import weighted_sum


def nonzero(total: Tensor, switch: str = "normalize") -> Tensor:
    """Return the sum of the weights, shape (). Raises Undefined if it is zero, which nothing can be divided by."""
    if not total:
        raise Undefined(f"the weights sum to zero, and {switch} divides by their sum; change one, or turn {switch} off")
    return total


def fused(kernels: AnyKernels, block: Block, numbers: Numbers, _: None, out: Tensor) -> Finite:
    """Do what `linear` does in one pass."""
    weights = torch.tensor(numbers.each("weight"), dtype=torch.float32)
    divisor = float(nonzero(weights.sum())) if numbers.flag("normalize") else None
    if isinstance(kernels, TensorKernels):
        kernels.weighted_sum(block.inputs, weights.tolist(), out, divisor, fma=True)
        return all_finite(out)
    return weighted_sum(kernels, block.inputs, weights.tolist(), out, divisor, fma=True)


@method(
    "linear",
    source="arXiv:2203.05482",
    parameters=(
        Parameter("weight", float, Scope.INPUT),
        Parameter("normalize", bool, Scope.SHARED, default=True),
    ),
    fused=fused,
)
def linear(block: Block, numbers: Numbers, _: None) -> Tensor:
    """Return sum(weight * parent), over sum(weight) if `normalize`; summed in float32 at least."""
    dtype = block.inputs[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    weights = torch.tensor(numbers.each("weight"), dtype=wide, device=block.inputs[0].device)
    total = block.scratch.like(block.inputs[0], wide).zero_()
    widened = block.scratch.like(total)
    for parent, weight in zip(block.inputs, weights, strict=True):
        total.addcmul_(widened.copy_(parent), weight)
    if numbers.flag("normalize"):
        total.div_(nonzero(weights.sum()))
    return block.scratch.like(total, dtype).copy_(total)
