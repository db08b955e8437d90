"""NearSwap: the second parent where it is near the base, the base where it is far.

Source: https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.operands import Block
from merging.methods.registry import method

_SMALLEST_DISTANCE = 1e-6


@method(
    "nearswap",
    source="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base="required",
    inputs=(2, 2),
)
def nearswap(block: Block, t: Shared[float] = Default(low=0.0)) -> Tensor:
    """Return the base moved towards the other parent by the part min(1, t / |their difference|) of the way.

    Rounds to the dtype of the merge after every step.
    """
    (other,) = block.inputs
    part, rest = block.workspace.like(block.base), block.workspace.like(block.base)
    torch.sub(block.base, other, out=part)
    # The model card's section "NearSwap Algorithm": lerp from v0 to v1 by clip(t / |v0 - v1|, 0, 1).
    part.abs_().clamp_(min=_SMALLEST_DISTANCE).reciprocal_().mul_(t).clamp_(0, 1)
    rest.copy_(part).neg_().add_(1)
    return part.mul_(other).add_(rest.mul_(block.base))
