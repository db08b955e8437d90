"""Multi-SLERP: the barycentre of many parents on a sphere (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea).

Directions are projected onto the plane that touches the sphere at their weighted mean, averaged there, and projected
back; the length is the weighted mean of the lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.linear import nonzero
from merging.methods.operands import Block
from merging.methods.registry import Undefined, method


@method(
    "multislerp",
    source="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base="optional",
    inputs=(1, None),
    whole=True,
)
def multislerp(
    block: Block,
    weight: PerParent[float],
    normalize_weights: Shared[bool] = Default(True),
    eps: Shared[float] = Default(1e-8, low=0.0),
) -> Tensor:
    """Return the barycentre of the parents, or of what they changed in the base, added back to it.

    Rounds to the dtype of the merge after every step. A single parent is returned as it is.

    Raises:
        Undefined: three or more directions cancel out; or a length is zero, and so is `eps` in this dtype.
    """
    if len(block.inputs) == 1:
        return block.inputs[0]
    points = torch.stack(block.inputs)
    if block.base_or_none is not None:
        points.sub_(block.base)
    points = points.view(len(points), -1)
    weights = torch.tensor(weight, dtype=points.dtype, device=points.device)
    if normalize_weights:
        weights = weights / nonzero(weights.sum(), "normalize_weights")
    merged = _barycentre(points, weights, eps).view(block.inputs[0].shape)
    return merged if block.base_or_none is None else merged.add_(block.base)


def _barycentre(points: Tensor, weights: Tensor, eps: float) -> Tensor:
    """Return the barycentre of points (parents, elements) with weights (parents,)."""
    column = weights.unsqueeze(1)
    lengths = torch.norm(points, dim=-1, keepdim=True)
    divisors = lengths + eps
    if not divisors.all():
        raise Undefined(
            f"a model is zero there, or equals the base, and eps {eps:g} is zero in {_name(points.dtype)}; "
            "raise eps, or merge in bfloat16 or float32"
        )
    directions = points / divisors
    middle = (directions * column).sum(0)
    length = torch.norm(middle)
    if length < eps:
        return _mean_of_two(points, weights)
    middle.div_(length)
    offsets = directions.sub_((directions * middle).sum(-1, keepdim=True) * middle)  # in the plane that touches there
    offset = offsets.mul_(column).sum(0)
    angle = torch.norm(offset) + eps
    # Back onto the sphere, by its exponential map at the middle m: cos ‖v‖ · m + sin ‖v‖ · v / ‖v‖.
    direction: Tensor = middle.mul_(torch.cos(angle)).add_(offset.mul_(torch.sin(angle) / angle))
    return direction.mul_((lengths.squeeze(-1) * weights).sum())


def _mean_of_two(points: Tensor, weights: Tensor) -> Tensor:
    # Opposite directions define no plane, only a line.
    if len(points) == 2:
        return points[0] * weights[0] + points[1] * weights[1]
    raise Undefined(
        "the weighted directions of the models cancel out (all of them may be equal to the base there); "
        "choose other weights, or another method for this tensor's models"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
