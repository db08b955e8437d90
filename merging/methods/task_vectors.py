"""Task vectors: what the fine-tunes changed in their base model, thinned out, weighed and added to the base again.

task_arithmetic, ties, dare, della and breadcrumbs are one computation: thin each delta (or not), weigh it, elect a sign
for each element and keep the deltas that agree with it (or not), sum, normalize (or not), scale by lambda, add to the
base.

Guarantees: each step rounds to the dtype of the merge as mergekit 0.1.5's steps do, so that 16-bit results have the
same bits. A parent whose weight is zero is not read (a NaN in it goes unnoticed there), nor one that equals the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from merging.inductor import AnyKernels, TensorKernels
from merging.methods.bits import all_finite, as_bits, bits_of, magnitude_mask
from merging.methods.breadcrumbs import find_band
from merging.methods.della import draw_by_rank, refuse_probabilities
from merging.methods.registry import (
    Block,
    Combine,
    Finite,
    Numbers,
    Operands,
    Parameter,
    RefuseTogether,
    Scope,
    Scratch,
    method,
)
from merging.methods.sparsify import NOTHING, Thinning, base_extremes, delta_extremes, draw, find_cut, keep_all
from merging.native import task_vectors as native


@dataclass(frozen=True, slots=True)
class Thinner:
    """A way to thin task vectors out.

    Attributes:
        find: finds the thinning of one, given operands, its index, density, rescale, and a number for each parameter.
        parameters: what it asks for besides the density.
        random: whether it draws random numbers.
        refuses_together: why a density and these numbers cannot stand together.
    """

    find: Callable[..., Thinning | None]
    parameters: tuple[Parameter, ...] = ()
    random: bool = False
    refuses_together: RefuseTogether | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A parent that takes part in the merge of a tensor: its weight is not zero, and it differs from the base."""

    index: int
    weight: float  # rounded to the dtype of the merge
    thinning: Thinning | None


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a tensor is merged of.

    Attributes:
        parts: the parents that change it.
        total_weight: the sum of the weights of all parents.
        finite: whether no task vector holds a NaN or an Inf.
        fits: whether it is known that no element of the merge is NaN or Inf; else that must be looked at.
    """

    parts: tuple[Part, ...]
    total_weight: float
    finite: bool
    fits: bool = False


def _prepare(thinner: Thinner) -> Callable[[Operands, Numbers], Mixture]:
    def prepare(operands: Operands, numbers: Numbers) -> Mixture:
        weights, total = _rounded(numbers.each("weight"), operands.dtype)
        parts, finite = [], True
        for index, (weight, density) in enumerate(zip(weights, numbers.each("density"), strict=True)):
            if weight == 0 or (extremes := delta_extremes(operands, index)) == (0, 0):
                continue
            if not all(map(math.isfinite, extremes)):
                finite = False
                continue
            others = [numbers.each(parameter.key)[index] for parameter in thinner.parameters]
            thinning = thinner.find(operands, index, density, numbers.flag("rescale"), *others)
            if thinning is not NOTHING:
                parts.append(Part(index, weight, thinning))
        mixture = Mixture(tuple(parts), total, finite)
        if isinstance(operands.kernels, TensorKernels):
            return replace(mixture, fits=_fits(operands, mixture, numbers))
        return mixture

    return prepare


def _fits(operands: Operands, mixture: Mixture, numbers: Numbers) -> bool:
    """Whether nothing in the merge can come near the largest number of its dtype, by the largest of what it is made of.

    To look at a merge that lies on a GPU would take a quarter of the time that it took to make it.
    """
    if any(part.thinning and part.thinning.norm for part in mixture.parts):
        return False  # scaled by what only the device will know
    largest = sum(abs(part.weight) * max(map(abs, delta_extremes(operands, part.index))) for part in mixture.parts)
    if numbers.flag("normalize"):
        weights = [part.weight for part in mixture.parts]
        if weights and min(weights) < 0 < max(weights):
            return False  # those of the parents that agree may nearly cancel
        largest *= max(1.0, 1 / min(map(abs, [*weights, _divisor(mixture.total_weight)])))
    largest *= max(1.0, abs(numbers.number("lambda")))
    return max(map(abs, base_extremes(operands))) + largest < torch.finfo(operands.dtype).max / 2


@lru_cache(1 << 12)
def _rounded(weights: tuple[float, ...], dtype: torch.dtype) -> tuple[tuple[float, ...], float]:
    """Return weights as a dtype holds them, and their sum in it."""
    rounded = torch.tensor(weights, dtype=dtype)
    return tuple(rounded.tolist()), float(rounded.sum())


def _merge(block: Block, numbers: Numbers, mixture: Mixture, elect: bool) -> Tensor:
    assert block.base is not None
    if not mixture.finite:
        return torch.full_like(block.base, math.nan)  # an election could vote a NaN out: its sign means nothing
    if not mixture.parts:
        return block.base.clone()
    weighted = [_weighted(block, part) for part in mixture.parts]
    normalize = numbers.flag("normalize")
    divisor: Tensor | float | None
    if elect:
        mixed, divisor = _elect(weighted, [part.weight for part in mixture.parts], normalize, block.scratch)
    else:
        mixed = _rounded_sum(weighted, weighted[0], block.scratch)
        divisor = _divisor(mixture.total_weight) if normalize else None
    if divisor is not None:
        mixed = mixed.div_(divisor)
    if numbers.number("lambda") != 1.0:
        mixed = mixed.mul_(numbers.number("lambda"))
    return mixed.add_(block.base)


def _weighted(block: Block, part: Part) -> Tensor:
    assert block.base is not None
    delta = torch.sub(block.inputs[part.index], block.base, out=block.scratch.like(block.base))
    if part.thinning is not None:
        delta = part.thinning.apply(delta, block.start)
    return delta if part.weight == 1.0 else delta.mul_(part.weight)


def _elect(
    weighted: list[Tensor], weights: Sequence[float], normalize: bool, scratch: Scratch
) -> tuple[Tensor, Tensor | float | None]:
    """Return the sum of the deltas that have the sign of their sum, and what normalizing divides it by.

    Overwrites `weighted`. Decided on the bits: shifted to the right, a sign bit fills the number.
    """
    if len(weighted) == 1:
        return weighted[0], weights[0] if normalize else None
    total = _rounded_sum(weighted, scratch.like(weighted[0]), scratch)
    against = as_bits(total).bitwise_not_()
    differs = scratch.like(against)
    for bits in map(as_bits, weighted):
        torch.bitwise_xor(bits, against, out=differs)
        bits.bitwise_and_(differs.bitwise_right_shift_(total.element_size() * 8 - 1))
    mixed = _rounded_sum(weighted, total, scratch)
    return mixed, _agreeing_weight(weighted, weights, scratch) if normalize else None


def _agreeing_weight(agreeing: list[Tensor], weights: Sequence[float], scratch: Scratch) -> Tensor:
    # The weights of the deltas that agree and are not zero. Where none is, the sum that this divides is zero: any
    # divisor but 0 will do.
    dtype = agreeing[0].dtype
    for delta, weight in zip(agreeing, weights, strict=True):
        as_bits(delta).bitwise_and_(magnitude_mask(dtype)).clamp_max_(1).mul_(bits_of(weight, dtype))
    total = _rounded_sum(agreeing, agreeing[0], scratch)
    if min(weights) > 0:
        as_bits(total).clamp_min_(bits_of(min(weights), dtype))
        return total
    # Weights of both signs can cancel; then mergekit divides by 1.
    return total.add_(1 - total.sign().abs_())


def _fused(
    kernels: AnyKernels, block: Block, numbers: Numbers, mixture: Mixture, out: Tensor, elect: bool
) -> Finite | None:
    """Do what `_merge` does in one pass over the block."""
    if block.base is None or not mixture.finite or not mixture.parts:
        return None
    thinnings = [part.thinning for part in mixture.parts if part.thinning is not None]
    form = native.Form(
        len(mixture.parts),
        block.base.dtype,
        thinnings[0].kind if thinnings else native.Thinning.CUT,
        wide=out.dtype != block.base.dtype,
        scaled=any(thinning.scale != 1.0 for thinning in thinnings),
        elect=elect,
        normalize=numbers.flag("normalize"),
        has_lambda=numbers.number("lambda") != 1.0,
    )
    parts = [_native_part(block, part) for part in mixture.parts]
    if isinstance(kernels, TensorKernels):
        kernels.merge(form, block.base, parts, out, _divisor(mixture.total_weight), numbers.number("lambda"))
        return mixture.fits or all_finite(out)
    weights = tuple(part.weight for part in mixture.parts)
    divisor = _rounded(weights, block.base.dtype)[1] or 1.0 if elect else _divisor(mixture.total_weight)
    return native.merge(kernels, form, block.base, parts, out, block.start, divisor, numbers.number("lambda"))


def _native_part(block: Block, part: Part) -> tuple[native.Part, Tensor, float]:
    source = block.inputs[part.index]
    thinning = part.thinning.native(source.dtype, block.start) if part.thinning else native.Part()
    return thinning, source, part.weight


def _divisor(total: float) -> float:
    # Compared as a Python number: in float16 mergekit's bound is itself zero, and a zero divisor would stay.
    return 1.0 if abs(total) < 1e-8 else total


def _rounded_sum(terms: list[Tensor], out: Tensor, scratch: Scratch) -> Tensor:
    # A sum over a stack of 16-bit tensors adds in float32 and rounds once. `out` may be one of the terms.
    if len(terms) == 2:
        return torch.add(terms[0], terms[1], out=out)
    total = scratch.like(out, torch.promote_types(out.dtype, torch.float32)).copy_(terms[0])
    for term in terms[1:]:
        total.add_(term)
    return out.copy_(total)


def _register(name: str, source: str, thinner: Thinner, elect: bool, normalize: bool, rescale: bool) -> Combine:
    def combine(block: Block, numbers: Numbers, mixture: Mixture) -> Tensor:
        return _merge(block, numbers, mixture, elect)

    def fused(kernels: AnyKernels, block: Block, numbers: Numbers, mixture: Mixture, out: Tensor) -> Finite | None:
        return _fused(kernels, block, numbers, mixture, out, elect)

    parameters = (
        Parameter("weight", float, Scope.NON_BASE),
        Parameter("density", float, Scope.NON_BASE, default=1.0, low=0.0, high=1.0),
        *thinner.parameters,
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
        prepare=_prepare(thinner),
        random=thinner.random,
        keeps_base=True,
        refuses_together=thinner.refuses_together,
        fused=fused,
    )(combine)


_ALL = Thinner(keep_all)
_LARGEST = Thinner(find_cut)
_RANDOM = Thinner(draw, random=True)
_RANDOM_BY_RANK = Thinner(
    draw_by_rank,
    parameters=(Parameter("epsilon", float, Scope.NON_BASE, default=0.15, low=0.0, high=0.5),),
    random=True,
    refuses_together=refuse_probabilities,
)
_BAND = Thinner(find_band, parameters=(Parameter("gamma", float, Scope.NON_BASE, default=0.01, low=0.0, high=1.0),))

# (name, source, thinner, elect, normalize, rescale); the switches are mergekit 0.1.5's defaults.
task_arithmetic = _register("task_arithmetic", "arXiv:2212.04089", _ALL, False, False, False)
ties = _register("ties", "arXiv:2306.01708", _LARGEST, True, True, False)
dare_ties = _register("dare_ties", "arXiv:2311.03099", _RANDOM, True, False, True)
dare_linear = _register("dare_linear", "arXiv:2311.03099", _RANDOM, False, False, True)
della = _register("della", "arXiv:2406.11617", _RANDOM_BY_RANK, True, True, True)
della_linear = _register("della_linear", "arXiv:2406.11617", _RANDOM_BY_RANK, False, False, True)
breadcrumbs = _register("breadcrumbs", "arXiv:2312.06795", _BAND, False, False, False)
breadcrumbs_ties = _register("breadcrumbs_ties", "arXiv:2312.06795", _BAND, True, False, False)
