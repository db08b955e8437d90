"""Model Stock: from the base towards the parents' average, as far as the angles between them say (arXiv:2403.19522)."""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.operands import Block, Operands
from merging.methods.registry import method

_SMALLEST_PRODUCT = 1e-6
_SMALLEST_DENOMINATOR = 1e-6


def ratio(operands: Operands, filter_wise: Shared[bool] = Default(False)) -> Tensor:
    """Return the part of the way to the average, for the tensor (1,) or for each row (*rows, 1)."""
    inputs = range(operands.count)
    return operands.once(f"stock_ratio {filter_wise}", inputs, lambda: _ratio(operands.whole(), filter_wise))


def _ratio(block: Block, by_filter: bool) -> Tensor:
    offsets = [parent - block.base for parent in block.inputs]
    if not by_filter:
        offsets = [offset.view(-1) for offset in offsets]
    cosine = torch.stack([_cosine(one, other) for one, other in combinations(offsets, 2)]).mean(dim=0).unsqueeze(-1)
    count = len(offsets)
    denominator = 1 + (count - 1) * cosine
    # Where the offsets cancel out there is no estimate: the base stays.
    singular = denominator.abs() < _SMALLEST_DENOMINATOR
    return torch.where(singular, 0, count * cosine / torch.where(singular, 1, denominator))  # eq. (2)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    lengths: Tensor = torch.norm(one, dim=-1) * torch.norm(other, dim=-1)
    return ((one * other).sum(dim=-1) / lengths.clamp(min=_SMALLEST_PRODUCT)).clamp(-1, 1)


@method(
    "model_stock",
    source="arXiv:2403.19522",
    base="required",
    inputs=(3, None),
    prepare=ratio,
    whole=True,
)
def model_stock(block: Block, ratio: Tensor) -> Tensor:
    """Return ratio · average + (1 - ratio) · base, rounded to the dtype of the merge after every step."""
    average = reduce(torch.add, block.inputs).div_(len(block.inputs))
    return average.mul_(ratio).add_((1 - ratio) * block.base)  # w_H = t · w_avg + (1 - t) · w_0
