"""Task vectors: what the fine-tunes changed in their base model, thinned out, weighed and added to the base again.

task_arithmetic, ties, dare_linear and dare_ties are one computation: thin each delta (or not), weigh it, elect a sign
for each element and keep the deltas that agree with it (or not), sum, normalize (or not), scale by lambda, add to the
base.

Guarantees: each step rounds to the dtype of the merge as mergekit 0.1.5's steps do, so that 16-bit results have the
same bits. A parent whose weight is zero is not read (a NaN in it goes unnoticed there), nor one that equals the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from merging.methods.bits import all_finite, as_bits, bits_of, magnitude_mask
from merging.methods.registry import Block, Combine, Numbers, Operands, Parameter, Prepare, Scope, method
from merging.methods.sparsify import NOTHING, Cut, Drop, differs, draw, find_cut

Thinning: TypeAlias = Cut | Drop | None


def _keep_each(operands: Operands, numbers: Numbers) -> list[Thinning]:
    return _thin_each(lambda *_: None, operands, numbers)


def _trim_each(operands: Operands, numbers: Numbers) -> list[Thinning]:
    return _thin_each(find_cut, operands, numbers)


def _drop_each(operands: Operands, numbers: Numbers) -> list[Thinning]:
    return _thin_each(draw, operands, numbers)


def _thin_each(
    thin: Callable[[Operands, int, float, bool], Thinning], operands: Operands, numbers: Numbers
) -> list[Thinning]:
    rescale = numbers.flag("rescale")
    pairs = enumerate(zip(numbers.each("density"), numbers.each("weight"), strict=True))
    return [
        thin(operands, index, density, rescale) if weight and differs(operands, index) else NOTHING
        for index, (density, weight) in pairs
    ]


def _merge(block: Block, numbers: Numbers, thinnings: Sequence[Thinning], elect: bool) -> Tensor:
    assert block.base is not None
    # A weight is rounded to the dtype of the merge before anything is multiplied by it.
    weights: list[float] = torch.tensor(numbers.each("weight"), dtype=block.base.dtype).tolist()
    present = [index for index, thinning in enumerate(thinnings) if thinning is not NOTHING and weights[index] != 0]
    if not present:
        return block.base.clone()
    weighted = []
    for index in present:
        delta = block.inputs[index] - block.base
        if (thinning := thinnings[index]) is not None:
            delta = thinning.apply(delta, block.start)
        weighted.append(delta if weights[index] == 1.0 else delta.mul_(weights[index]))
    normalize = numbers.flag("normalize")
    divisor: Tensor | float | None
    if elect:
        mixed, divisor = _elect(weighted, [weights[index] for index in present], normalize)
    else:
        mixed, divisor = _rounded_sum(weighted), _total_weight(weights, block.base.dtype) if normalize else None
    if divisor is not None:
        mixed = mixed.div_(divisor)
    if numbers.number("lambda") != 1.0:
        mixed = mixed.mul_(numbers.number("lambda"))
    return mixed.add_(block.base)


def _elect(weighted: list[Tensor], weights: Sequence[float], normalize: bool) -> tuple[Tensor, Tensor | float | None]:
    """Return the sum of the deltas that have the sign of their sum, and what normalizing divides it by.

    Overwrites `weighted`. Decided on the bits: shifted to the right, a sign bit fills the number.
    """
    if len(weighted) == 1:
        return weighted[0], weights[0] if normalize else None
    total = _rounded_sum(weighted)
    if not all_finite(total):
        return total, None  # the sign of a NaN means nothing: it could be voted out
    sign_bit = total.element_size() * 8 - 1
    against = as_bits(total).bitwise_not_()
    for bits in map(as_bits, weighted):
        bits.bitwise_and_((bits ^ against).bitwise_right_shift_(sign_bit))
    mixed = _rounded_sum(weighted)
    return mixed, _agreeing_weight(weighted, weights) if normalize else None


def _agreeing_weight(agreeing: list[Tensor], weights: Sequence[float]) -> Tensor:
    # The weights of the deltas that agree and are not zero. Where none is, the sum that this divides is zero: any
    # divisor but 0 will do.
    dtype = agreeing[0].dtype
    for delta, weight in zip(agreeing, weights, strict=True):
        as_bits(delta).bitwise_and_(magnitude_mask(dtype)).clamp_max_(1).mul_(bits_of(weight, dtype))
    total = _rounded_sum(agreeing)
    if min(weights) > 0:
        as_bits(total).clamp_min_(bits_of(min(weights), dtype))
        return total
    # Weights of both signs can cancel; then mergekit divides by 1.
    return total.add_(1 - total.sign().abs_())


def _total_weight(weights: list[float], dtype: torch.dtype) -> float:
    # Compared as a Python number: in float16 mergekit's bound is itself zero, and a zero divisor would stay.
    total = float(torch.tensor(weights, dtype=dtype).sum())
    return 1.0 if abs(total) < 1e-8 else total


def _rounded_sum(terms: list[Tensor]) -> Tensor:
    # A sum over a stack of 16-bit tensors adds in float32 and rounds once.
    if len(terms) <= 2:
        return terms[0] + terms[1] if len(terms) == 2 else terms[0].clone()
    wide = torch.promote_types(terms[0].dtype, torch.float32)
    total = terms[0].to(wide)
    for term in terms[1:]:
        total = total + term.to(wide)
    return total.to(terms[0].dtype)


def _register(name: str, source: str, prepare: Prepare, elect: bool, normalize: bool, rescale: bool) -> Combine:
    def combine(block: Block, numbers: Numbers, thinnings: Sequence[Thinning]) -> Tensor:
        return _merge(block, numbers, thinnings, elect)

    parameters = (
        Parameter("weight", float, Scope.NON_BASE),
        Parameter("density", float, Scope.NON_BASE, default=1.0, low=0.0, high=1.0),
        Parameter("normalize", bool, Scope.SHARED, default=normalize),
        Parameter("rescale", bool, Scope.SHARED, default=rescale),
        Parameter("lambda", float, Scope.SHARED, default=1.0),
        # Saves memory in mergekit and changes no result; there is no mask here to save.
        Parameter("int8_mask", bool, Scope.SHARED, default=False),
    )
    return method(
        name,
        source=source,
        parameters=parameters,
        base="required",
        prepare=prepare,
        random=prepare is _drop_each,
    )(combine)


task_arithmetic = _register(
    "task_arithmetic", "arXiv:2212.04089", _keep_each, elect=False, normalize=False, rescale=False
)
ties = _register("ties", "arXiv:2306.01708", _trim_each, elect=True, normalize=True, rescale=False)
dare_ties = _register("dare_ties", "arXiv:2311.03099", _drop_each, elect=True, normalize=False, rescale=True)
dare_linear = _register("dare_linear", "arXiv:2311.03099", _drop_each, elect=False, normalize=False, rescale=True)
