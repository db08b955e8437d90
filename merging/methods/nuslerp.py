"""NuSLERP: along the great circle between two parents, or between what they changed in a base model.

Source: mergekit's documentation. Unlike slerp it takes a weight for each model, may go row by row, and keeps the norms
that the parents have (it does not rescale to unit length first).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.operands import Block, Operands
from merging.methods.registry import method

_SMALLEST_NORM = 1e-7
_SMALLEST_TOTAL = 1e-6
_NEARLY_PARALLEL = 1e-16  # the largest 1 - cos² for which the circle is taken for a line


@dataclass(frozen=True, slots=True)
class Arc:
    """Where between the two parents the merge lies.

    Attributes:
        cosine: of the angle between them, in the dtype of the merge; one number, or one for each row or column.
        t: 0 is the first parent, 1 the second.
    """

    cosine: Tensor
    t: float


def arc(
    operands: Operands,
    weight: PerParent[float],
    nuslerp_flatten: Shared[bool] = Default(True),
    nuslerp_row_wise: Shared[bool] = Default(False),
) -> Arc:
    """Return the angle, which depends only on the parents, and the second parent's part of the weights."""
    axis = None if nuslerp_flatten else 0 if nuslerp_row_wise else -1
    name = f"nuslerp_cosine {axis}"
    cosine = operands.once(name, [0, 1], lambda: cosine_along(axis, *_ends(operands.whole())))
    first, second = weight
    total = first + second
    return Arc(cosine, 0.5 if abs(total) < _SMALLEST_TOTAL else second / total)


def cosine_along(axis: int | None, first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine between the vectors that lie along an axis of two tensors, or between the two as vectors.

    Rounds to the dtype of the tensors after every step. Shape (1,) for the whole, else theirs with 1 at the axis.
    """
    if axis is None:
        return cosine_along(-1, first.reshape(-1), second.reshape(-1))
    return (_unit(first, axis) * _unit(second, axis)).sum(dim=axis, keepdim=True).clamp_(-1, 1)


@method(
    "nuslerp",
    source="mergekit: docs/merge_methods.md",
    base="optional",
    inputs=(2, 2),
    prepare=arc,
    whole=True,
)
def nuslerp(block: Block, arc: Arc) -> Tensor:
    """Return the point at `t` on the arc between the parents (or between what they changed, added back to the base)."""
    first, second = _ends(block)
    parallel = 1 - arc.cosine.square() <= _NEARLY_PARALLEL
    theta = torch.acos(torch.where(parallel, 0, arc.cosine))
    # Slerp's formula for ends of any length: sin((1-t)Ω)/sin Ω · p_0 + sin(tΩ)/sin Ω · p_1.
    point = (first * torch.sin((1 - arc.t) * theta)).add_(second * torch.sin(arc.t * theta)).div_(torch.sin(theta))
    if parallel.any():
        point = torch.where(parallel, (first * (1 - arc.t)).add_(second * arc.t), point)
    return point if block.base_or_none is None else point.add_(block.base)


def _ends(block: Block) -> tuple[Tensor, Tensor]:
    first, second = block.inputs
    return (first, second) if block.base_or_none is None else (first - block.base, second - block.base)


def _unit(vectors: Tensor, axis: int) -> Tensor:
    lengths: Tensor = torch.norm(vectors, dim=axis, keepdim=True)
    return vectors / lengths.clamp_(min=_SMALLEST_NORM)
