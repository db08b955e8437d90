"""Which token is chosen: the likeliest or a drawn one, as a function of the logits and the token's position.

Guarantees: a draw depends on its key and the position, and not on the batch, the order or the drafts, so that guesses
are verified as in greedy decoding. If logits are not finite, no token is chosen; this check never waits for the
device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evaluation.generation.sampling import TokenDraws

# A vocabulary is summed and sorted in blocks of this many tokens: sorting all of it takes longer than a pass.
_BLOCK = 64
NONE = -1
"""Stands for no token: the logits have NaN or +Inf, or all are -Inf."""
# Most nuclei are this small.
_FEW = 64


def choose(logits: Tensor, draws: Sequence[TokenDraws | None], starts: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Choose a token at each position: the likeliest or a drawn one.

    Args:
        logits: (positions, vocabulary), completion after completion.
        draws: per completion; None takes the likeliest.
        starts: per completion, the place of its first chosen token.
        counts: per completion, how many positions it has.

    Returns:
        The tokens, (positions,), int64; `NONE` where logits are not finite.
    """
    places: list[int] = []
    numbers: list[tuple[float, float, float]] = []
    first = 0
    for draw, start, count in zip(draws, starts, counts, strict=True):
        if draw is not None:
            places += range(first, first + count)
            numbers += [(draw.temperature, draw.top_p, uniform) for uniform in draw.uniforms(start, count)]
        first += count
    if not places:
        return _likeliest(logits)
    # In float64 a random number near 1 stays below it.
    temperature, top_p, uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device).unbind(dim=1)
    if len(places) == len(logits):
        return drawn(logits, temperature.float(), top_p.float(), uniform)
    chosen, where = _likeliest(logits), torch.tensor(places, device=logits.device)
    chosen[where] = drawn(logits[where], temperature.float(), top_p.float(), uniform)
    return chosen


def drawn(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Return the token (n,) at which the cumulative probability exceeds a random number.

    `NONE` where logits are not finite.

    Args:
        logits: (n, vocabulary).
        temperature: (n,), above 0.
        top_p: (n,), within (0, 1].
        uniform: (n,), float64 in [0, 1).
    """
    weights, finite = _weights(logits, temperature)
    if bool((top_p < 1).any()):
        least = torch.where(top_p < 1, least_in_nucleus(weights, top_p), 0)
        weights = weights.masked_fill_(weights < least[:, None], 0)
    blocks = weights.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(dim=-1)
    block, rest = _reached(sums, uniform * sums.sum(dim=-1, dtype=torch.float64))
    own = blocks.gather(1, block[:, None, None].expand(-1, 1, _BLOCK)).squeeze(1)
    return torch.where(finite, block * _BLOCK + _reached(own, rest)[0], NONE)


def least_in_nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """Return the least weight (n,) in the nucleus: the largest weights that together reach the part top_p (n,) of all.

    Tokens with the same weight as the last one in the nucleus belong to it, too.
    """
    wanted = top_p * weights.sum(dim=-1)
    blocks = weights.view(len(weights), -1, _BLOCK)
    # The largest weights lie in the blocks with the largest maxima: most of the vocabulary need not be sorted.
    largest = blocks.amax(dim=-1).topk(min(_FEW, blocks.shape[1]), dim=-1).indices
    some = blocks.gather(1, largest[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    least, reached = _least(some.topk(min(_FEW, some.shape[-1]), dim=-1).values, wanted)
    if not bool(reached.all()):
        rest = ~reached
        least[rest] = _least(weights[rest].sort(dim=-1, descending=True).values, wanted[rest])[0]
    return least


def _likeliest(logits: Tensor) -> Tensor:
    # argmax puts NaN above everything, so its result decides about the whole row.
    chosen = logits.argmax(dim=-1, keepdim=True)
    return torch.where(logits.gather(-1, chosen).isfinite(), chosen, NONE).squeeze(-1)


def _weights(logits: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights in proportion to the probabilities, and whether (n,) the logits are finite.

    The largest weight is 1; zeros fill the last block.
    """
    count, vocabulary = logits.shape
    weights = torch.zeros(count, -(-vocabulary // _BLOCK) * _BLOCK, device=logits.device)
    own = weights[:, :vocabulary]
    largest = logits.amax(dim=-1, keepdim=True).float()
    # Subtracted first: then a small temperature makes only those logits infinite that are never drawn.
    torch.sub(logits, largest, out=own).div_(temperature[:, None].clamp_min(torch.finfo(torch.float32).tiny)).exp_()
    return weights, largest.squeeze(-1).isfinite()


def _least(descending: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last of the first numbers whose sum reaches the wanted one, and whether any do."""
    reached = descending.cumsum(dim=-1)
    within = (reached - descending < wanted[:, None]).sum(dim=-1)
    # NaN reaches nothing.
    return descending.gather(-1, (within[:, None] - 1).clamp_min(0)).squeeze(-1), reached[:, -1] >= wanted


def _reached(weights: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index at which the cumulative weight exceeds the wanted one, and what was left before it."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    wanted = torch.minimum(wanted, torch.nextafter(sums[:, -1], torch.zeros_like(wanted)))
    # With NaN, the place may be past the last one.
    index = torch.searchsorted(sums, wanted[:, None], right=True).clamp_max(weights.shape[-1] - 1)
    before = torch.where(index > 0, sums.gather(-1, (index - 1).clamp_min(0)), 0)
    return index.squeeze(1), wanted - before.squeeze(1)
