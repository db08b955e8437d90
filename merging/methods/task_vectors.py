"""Task vectors: what the fine-tunes changed in their base model, sparsified, weighted and added back to the base.

task_arithmetic, ties, dare, della and breadcrumbs are one computation: sparsify each delta (or not), weigh it, elect a
sign for each element and keep the deltas that agree with it (or not), sum, normalize (or not), scale by lambda, add to
the base.

Guarantees: each step rounds to the dtype of the merge as mergekit 0.1.5's steps do, so that 16-bit results have the
same bits. Parents that equal the base or have zero weight are not read (a NaN in the latter goes unnoticed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from merging.arithmetic.bits import as_bits, bits_of, magnitude_mask
from merging.methods.breadcrumbs import band
from merging.methods.declarations import Default, PerParent, Shared, declared_by
from merging.methods.della import random_mask_by_rank, refuse_probabilities
from merging.methods.operands import Block, Operands, Workspace
from merging.methods.registry import Combine, Prepare, RefuseTogether, Statistic, method
from merging.methods.sparsification import (
    KEEP_NONE,
    Sparsification,
    base_extremes,
    delta_extremes,
    keep_all,
    random_mask,
    top_k,
)


@dataclass(frozen=True, slots=True)
class Sparsifier:
    """A way to sparsify task vectors.

    Attributes:
        find: returns the sparsification of a task vector, given operands, its index, density, rescale, and the
            parameters that `find` declares; None keeps all elements.
        random: whether it draws random numbers.
        refuses_together: returns why a density and these parameters exclude each other.
        keeps: the statistic of the parents that it keeps.
    """

    find: Callable[..., Sparsification | None]
    random: bool = False
    refuses_together: RefuseTogether | None = None
    keeps: Statistic | None = None


@dataclass(frozen=True, slots=True)
class Contribution:
    """A parent that changes the merge of a tensor: its weight is not zero, and it differs from the base."""

    index: int
    weight: float  # rounded to the dtype of the merge
    sparsification: Sparsification | None
    largest: float  # magnitude in its task vector


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the task vectors of a tensor are mixed.

    Attributes:
        contributions: the parents that change it.
        total_weight: the sum of the weights of all parents.
        finite: whether no task vector holds a NaN or an Inf.
        elect: whether only deltas with the sign of their sum are added.
        normalize: whether the sum is divided by the sum of the weights.
        scale: lambda.
    """

    contributions: tuple[Contribution, ...]
    total_weight: float
    finite: bool
    elect: bool
    normalize: bool
    scale: float

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the contributions."""
        return tuple(each.weight for each in self.contributions)

    @property
    def divisor(self) -> float:
        """What normalizing divides by if no sign is elected."""
        # Compared as a Python number: in float16 mergekit's bound is itself zero, so a zero divisor would remain.
        return 1.0 if abs(self.total_weight) < 1e-8 else self.total_weight


def _prepare(sparsifier: Sparsifier, elect: bool, normalizes: bool, rescales: bool) -> Prepare:
    def prepare(
        operands: Operands,
        weight: PerParent[float],
        density: PerParent[float] = Default(1.0, low=0.0, high=1.0),
        normalize: Shared[bool] = Default(normalizes),
        rescale: Shared[bool] = Default(rescales),
        lambda_: Shared[float] = Default(1.0),
        int8_mask: Shared[bool] = Default(False),  # noqa: ARG001 - saves memory in mergekit; there is no mask here
        **others: tuple[float, ...],
    ) -> Mixture:
        weights, total = rounded(weight, operands.dtype)
        contributions, finite = [], True
        for index, own in enumerate(weights):
            if own == 0 or (extremes := delta_extremes(operands.for_masks, index)) == (0, 0):
                continue
            if not all(map(math.isfinite, extremes)):
                finite = False
                continue
            found = sparsifier.find(operands, index, density, rescale, **others)
            if found is not KEEP_NONE:
                contributions.append(Contribution(index, own, found, max(map(abs, extremes))))
        return Mixture(tuple(contributions), total, finite, elect, normalize, lambda_)

    return prepare


def cannot_overflow(operands: Operands, mixture: Mixture) -> bool:
    """Whether no element of the merge comes near its dtype's largest number, by the largest elements of its sources.

    Looking at the merge itself, on a GPU, would take a quarter of the time that it took to make it.
    """
    if any(each.sparsification and each.sparsification.norm for each in mixture.contributions):
        return False  # scaled by a factor that only the device knows
    largest, weights = sum(abs(each.weight) * each.largest for each in mixture.contributions), mixture.weights
    if mixture.normalize:
        if weights and min(weights) < 0 < max(weights):
            return False  # the weights of parents that agree may nearly cancel
        largest *= max(1.0, 1 / min(map(abs, [*weights, mixture.divisor])))
    largest *= max(1.0, abs(mixture.scale))
    return max(map(abs, base_extremes(operands))) + largest < torch.finfo(operands.dtype).max / 2


@lru_cache(1 << 12)
def rounded(weights: tuple[float, ...], dtype: torch.dtype) -> tuple[tuple[float, ...], float]:
    """Return weights as a dtype holds them, and their sum in it."""
    held = torch.tensor(weights, dtype=dtype)
    return tuple(held.tolist()), float(held.sum())


def mix(block: Block, mixture: Mixture) -> Tensor:
    """Return base + lambda · Σ weight · sparsified delta, over the deltas that win the election, if there is one.

    A normalized sum is divided by the sum of the weights.
    """
    if not mixture.finite:
        return torch.full_like(block.base, math.nan)  # an election could vote a NaN out: its sign means nothing
    if not mixture.contributions:
        return block.base.clone()
    weighted = [_weighted(block, each) for each in mixture.contributions]
    divisor: Tensor | float
    if mixture.elect:
        mixed, divisor = _elect(weighted, mixture.weights, mixture.normalize, block.workspace)
    else:
        mixed, divisor = _rounded_sum(weighted, weighted[0], block.workspace), mixture.divisor
    if mixture.normalize:
        mixed = mixed.div_(divisor)
    if mixture.scale != 1.0:
        mixed = mixed.mul_(mixture.scale)
    return mixed.add_(block.base)  # task arithmetic, θ_0 + λ Σ τ_t; DELLA, eq. (1)


def _weighted(block: Block, contribution: Contribution) -> Tensor:
    delta = torch.sub(block.inputs[contribution.index], block.base, out=block.workspace.like(block.base))
    if contribution.sparsification is not None:
        delta = contribution.sparsification.apply(delta, block.start)
    return delta if contribution.weight == 1.0 else delta.mul_(contribution.weight)


def _elect(
    weighted: list[Tensor], weights: Sequence[float], normalize: bool, workspace: Workspace
) -> tuple[Tensor, Tensor | float]:
    """Return the sum of the deltas that have the sign of their sum, and what normalizing divides it by.

    Steps 2 and 3 of TIES's algorithm 1: elect the final signs, disjoint merge. Overwrites `weighted`. Works on the
    bits: a right shift fills the number with its sign bit.
    """
    if len(weighted) == 1:
        return weighted[0], weights[0]
    # Elect: γ_m = sgn(Σ τ̂_t); `against` has the opposite sign bit.
    total = _rounded_sum(weighted, workspace.like(weighted[0]), workspace)
    against = as_bits(total).bitwise_not_()
    differs = workspace.like(against)
    for bits in map(as_bits, weighted):
        torch.bitwise_xor(bits, against, out=differs)
        bits.bitwise_and_(differs.bitwise_right_shift_(total.element_size() * 8 - 1))
    mixed = _rounded_sum(weighted, total, workspace)  # disjoint merge: the sum over the t whose sign is γ_m
    return mixed, _agreeing_weight(weighted, weights, workspace) if normalize else 1.0


def _agreeing_weight(agreeing: list[Tensor], weights: Sequence[float], workspace: Workspace) -> Tensor:
    # Counts the weights of the deltas that agree and are not zero. If there are none, the sum to divide is zero, and
    # any divisor but 0 will do.
    dtype = agreeing[0].dtype
    for delta, weight in zip(agreeing, weights, strict=True):
        as_bits(delta).bitwise_and_(magnitude_mask(dtype)).clamp_max_(1).mul_(bits_of(weight, dtype))
    total = _rounded_sum(agreeing, agreeing[0], workspace)
    if min(weights) > 0:
        as_bits(total).clamp_min_(bits_of(min(weights), dtype))
        return total
    # Weights of both signs can cancel; then mergekit divides by 1.
    return total.add_(1 - total.sign().abs_())


def _rounded_sum(terms: list[Tensor], out: Tensor, workspace: Workspace) -> Tensor:
    # A sum over a stack of 16-bit tensors adds in float32 and rounds once. `out` may be one of the terms.
    if len(terms) == 2:
        return torch.add(terms[0], terms[1], out=out)
    total = workspace.like(out, torch.promote_types(out.dtype, torch.float32)).copy_(terms[0])
    for term in terms[1:]:
        total.add_(term)
    return out.copy_(total)


def _register(name: str, source: str, sparsifier: Sparsifier, elect: bool, normalize: bool, rescale: bool) -> Combine:
    prepare = _prepare(sparsifier, elect, normalize, rescale)
    return method(
        name,
        source=source,
        parameters=declared_by(prepare) + declared_by(sparsifier.find),
        base="required",
        prepare=prepare,
        random=sparsifier.random,
        keeps_base=True,
        refuses_together=sparsifier.refuses_together,
        keeps=sparsifier.keeps,
    )(mix)


_ALL = Sparsifier(keep_all)
_TOP_K = Sparsifier(top_k, keeps="magnitudes")
_RANDOM = Sparsifier(random_mask, random=True)
_RANDOM_BY_RANK = Sparsifier(random_mask_by_rank, True, refuse_probabilities, keeps="ranks")
_BAND = Sparsifier(band, keeps="magnitudes")

# (name, source, sparsifier, elect, normalize, rescale); the switches are mergekit 0.1.5's defaults.
task_arithmetic = _register("task_arithmetic", "arXiv:2212.04089", _ALL, False, False, False)
ties = _register("ties", "arXiv:2306.01708", _TOP_K, True, True, False)
dare_ties = _register("dare_ties", "arXiv:2311.03099", _RANDOM, True, False, True)
dare_linear = _register("dare_linear", "arXiv:2311.03099", _RANDOM, False, False, True)
della = _register("della", "arXiv:2406.11617", _RANDOM_BY_RANK, True, True, True)
della_linear = _register("della_linear", "arXiv:2406.11617", _RANDOM_BY_RANK, False, False, True)
breadcrumbs = _register("breadcrumbs", "arXiv:2312.06795", _BAND, False, False, False)
breadcrumbs_ties = _register("breadcrumbs_ties", "arXiv:2312.06795", _BAND, True, False, False)
