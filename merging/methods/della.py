"""DELLA: a random mask that is likelier to keep larger changes (arXiv:2406.11617).

Guarantees: the mask depends only on the task vector and on (seed, input, tensor, element); ranks depend only on
the parents and are computed once. Equal magnitudes are ranked in their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.arithmetic.bits import as_bits, magnitude_mask
from merging.methods.declarations import Default, PerParent
from merging.methods.operands import Operands
from merging.methods.sparsification import KEEP_NONE, Sparsification, delta
from merging.statistics import forms

_RANKS = forms.tensor(version=1)
_LIMIT = 2.0**31 - 128  # the largest float32 that an int32 holds
# Elements that are ranked at once: sorting needs ten times the memory of what is sorted.
_RANKED_AT_ONCE = 1 << 20


def random_mask_by_rank(
    operands: Operands,
    index: int,
    density: tuple[float, ...],
    rescale: bool,
    epsilon: PerParent[float] = Default(0.15, low=0.0, high=0.5),
) -> Sparsification | None:
    """Keep each element with a probability that rises with the rank of its magnitude (MAGPRUNE, section 2.2).

    Ranked within its row, the smallest has density - epsilon, the largest density + epsilon, both in (0, 1); the
    paper's epsilon is the whole range, twice this one. With `rescale` the kept elements are scaled so that the task
    vector keeps its L1 norm, as in mergekit; the paper divides each by its probability.
    """
    own = density[index]
    if own >= 1 or operands.elements == 0:
        return None
    if own <= 0:
        return KEEP_NONE
    ranked = operands.for_masks
    ranks = ranked.once("ranks", [index], lambda: _ranks(ranked, index), kept=_RANKS)
    last = _layout(operands.shape)[1] - 1
    # 1 - p_i: the drop rates p_i = p_min + Δ_i, where Δ_i = (ε / n) · r_i, rise from p_min = p - ε/2 for the largest;
    # here with n - 1 for n, so that the smallest has p + ε/2.
    least, step = (own - epsilon[index], 2 * epsilon[index] / last) if last else (own, 0.0)
    mask = Sparsification(key=operands.random_key(index), ranks=ranks, slope=step * _LIMIT, intercept=least * _LIMIT)
    return operands.completed(index, mask, rescale)


def refuse_probabilities(density: float | None, epsilon: float | None, **_: object) -> str | None:
    """Return why a density and an epsilon make no probabilities, or None if they do (or one is not known yet)."""
    if density is None or epsilon is None:
        return None
    if density >= 1 or density <= 0 or (density - epsilon > 0 and density + epsilon < 1):
        return None
    return (
        f"density {density:g} and epsilon {epsilon:g} give probabilities from {density - epsilon:g} to "
        f"{density + epsilon:g}, which must lie within (0, 1); choose an epsilon below {min(density, 1 - density):g}"
    )


def _layout(shape: torch.Size) -> tuple[int, int, int]:
    # As in mergekit 0.1.5: a vector is one row; other tensors are ranked along their second axis.
    if len(shape) < 2:
        return 1, shape.numel(), 1
    return shape[0], shape[1], shape[2:].numel()


def _ranks(operands: Operands, index: int) -> Tensor:
    """Return the rank, from 0, that the magnitude of each element has in its row; flat, int16 if that suffices."""
    rows, row, inner = _layout(operands.shape)
    rows_at_once = max(1, _RANKED_AT_ONCE // (row * inner))
    parts = []
    for first in range(0, rows, rows_at_once):
        block = operands.block(first * row * inner, rows_at_once * row * inner)
        magnitudes = (as_bits(delta(block, index)) & magnitude_mask(operands.dtype)).view(-1, row, inner)
        order = magnitudes.sort(dim=1, stable=True).indices
        places = torch.arange(row, dtype=torch.int16 if row <= 2**15 else torch.int32, device=order.device)
        ranks = torch.empty_like(order, dtype=places.dtype)
        parts.append(ranks.scatter_(1, order, places.view(1, row, 1).expand_as(order)).flatten())
    return torch.cat(parts)
