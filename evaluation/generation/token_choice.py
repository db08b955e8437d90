"""Chooses tokens: the likeliest or a drawn one, as a function of the logits and the token's position.

Guarantees: a draw depends on its key and the position, and not on the batch, the order or the drafts, so that guesses
are verified as in greedy decoding. If logits are not finite, no token is chosen. Nothing here waits for the device,
except `choose` and `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.generation.packed_numbers import PackedNumbers
from evaluation.generation.sampling import TokenDraws

# A vocabulary is summed and sorted in blocks of this many tokens: sorting all of it takes longer than a pass.
_BLOCK = 64
NONE = -1
"""Stands for no token: the logits have NaN or +Inf, or all are -Inf."""
OPEN = -2
"""Stands for a token that `settle` has to choose: its nucleus is large."""
# Most nuclei are this small.
_FEW = 64


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are drawn at some positions.

    Attributes:
        where: (n,) the positions; None for all.
        temperature: (n,), above 0.
        top_p: (n,), within (0, 1]; None if all are 1.
        uniform: (n,), float64 in [0, 1).
    """

    where: Tensor | None
    temperature: Tensor
    top_p: Tensor | None
    uniform: Tensor


def pack_drawing(
    numbers: PackedNumbers, draws: Sequence[TokenDraws | None], starts: Sequence[int], counts: Sequence[int]
) -> Callable[[Tensor], Drawing] | None:
    """Pack how tokens are drawn; return a function that unpacks it, or None if each completion takes the likeliest.

    Args:
        numbers: receives the numbers.
        draws: per completion; None takes the likeliest.
        starts: per completion, the place of its first chosen token.
        counts: per completion, how many positions it has.
    """
    if not any(draws):
        return None
    places: list[int] = []
    options: list[tuple[float, float, float]] = []
    first = 0
    for draw, start, count in zip(draws, starts, counts, strict=True):
        if draw is not None:
            places += range(first, first + count)
            options += [(draw.temperature, draw.top_p, uniform) for uniform in draw.uniforms(start, count)]
        first += count
    where = numbers.integers(places) if len(places) < first else None
    # float32 would round a random number near 1 up to 1.
    temperature, top_p, uniform = (numbers.reals(each) for each in zip(*options, strict=True))
    in_nucleus = any(draw.top_p < 1 for draw in draws if draw)

    def unpacked(sent: Tensor) -> Drawing:
        reals = sent.view(torch.float64)
        return Drawing(
            None if where is None else sent[where],
            reals[temperature].float(),
            reals[top_p].float() if in_nucleus else None,
            reals[uniform],
        )

    return unpacked


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
    numbers = PackedNumbers()
    unpacked = pack_drawing(numbers, draws, starts, counts)
    drawing = unpacked(numbers.sent(logits.device)) if unpacked else None
    chosen = choose_at_once(logits, drawing)
    return settle(chosen, logits, drawing) if drawing and bool((chosen == OPEN).any()) else chosen


def choose_at_once(logits: Tensor, drawing: Drawing | None) -> Tensor:
    """Choose a token at each position, without waiting for the device.

    Args:
        logits: (positions, vocabulary).
        drawing: how tokens are drawn; None takes the likeliest.

    Returns:
        The tokens, (positions,), int64; `NONE` where logits are not finite, `OPEN` where `settle` has to choose.
    """
    if drawing is None:
        return _likeliest(logits)
    if drawing.where is None:
        return drawn(logits, drawing)
    chosen = _likeliest(logits)
    return chosen.index_copy_(0, drawing.where, drawn(logits[drawing.where], drawing))


def settle(chosen: Tensor, logits: Tensor, drawing: Drawing) -> Tensor:
    """Choose the tokens that are still `OPEN`, by sorting the whole vocabulary; return all tokens."""
    places = (chosen == OPEN).nonzero().squeeze(1)
    own = places if drawing.where is None else torch.searchsorted(drawing.where, places)
    top_p = None if drawing.top_p is None else drawing.top_p[own]
    some = Drawing(None, drawing.temperature[own], top_p, drawing.uniform[own])
    return chosen.index_copy(0, places, drawn(logits[places], some, whole=True))


def drawn(logits: Tensor, drawing: Drawing, *, whole: bool = False) -> Tensor:
    """Return the token (n,) at which the cumulative probability exceeds a random number.

    It is `NONE` where the logits (n, vocabulary) are not finite, and `OPEN` where a nucleus needs ``whole``.
    """
    weights, finite = _weights(logits, drawing.temperature)
    known = None
    if drawing.top_p is not None:
        least, known = least_in_nucleus(weights, drawing.top_p, whole=whole)
        weights = weights.masked_fill_(weights < least[:, None], 0)
    blocks = weights.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(dim=-1)
    block, rest = _reached(sums, drawing.uniform * sums.sum(dim=-1, dtype=torch.float64))
    own = blocks.gather(1, block[:, None, None].expand(-1, 1, _BLOCK)).squeeze(1)
    token = block * _BLOCK + _reached(own, rest)[0]
    if known is not None:
        token = torch.where(known, token, OPEN)
    return torch.where(finite, token, NONE)


def least_in_nucleus(weights: Tensor, top_p: Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Return the least weight (n,) in the nucleus, and whether (n,) it was found.

    The nucleus is the largest weights that together reach the fraction top_p (n,) of all. Tokens with the same weight
    as the last one in the nucleus belong to it, too. With ``whole``, the least weight is always found.
    """
    wanted = top_p * weights.sum(dim=-1)
    all_tokens = top_p >= 1
    if whole:
        least = _least(weights.sort(dim=-1, descending=True).values, wanted)[0]
        return torch.where(all_tokens, 0, least), torch.ones_like(all_tokens)
    blocks = weights.view(len(weights), -1, _BLOCK)
    # The largest weights lie in the blocks with the largest maxima, so most of the vocabulary need not be sorted.
    largest = blocks.amax(dim=-1).topk(min(_FEW, blocks.shape[1]), dim=-1).indices
    some = blocks.gather(1, largest[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    least, reached = _least(some.topk(min(_FEW, some.shape[-1]), dim=-1).values, wanted)
    return torch.where(all_tokens, 0, least), reached | all_tokens


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
    # Subtract before dividing: then a small temperature makes only logits infinite whose tokens are never drawn.
    torch.sub(logits, largest, out=own).div_(temperature[:, None].clamp_min(torch.finfo(torch.float32).tiny)).exp_()
    return weights, largest.squeeze(-1).isfinite()


def _least(descending: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number at which the cumulative sum reaches the wanted one, and whether it does."""
    reached = descending.cumsum(dim=-1)
    within = (reached - descending < wanted[:, None]).sum(dim=-1)
    # NaN reaches nothing.
    return descending.gather(-1, (within[:, None] - 1).clamp_min(0)).squeeze(-1), reached[:, -1] >= wanted


def _reached(weights: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index at which the cumulative weight exceeds the wanted one, and the wanted part of its own weight."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    wanted = torch.minimum(wanted, torch.nextafter(sums[:, -1], torch.zeros_like(wanted)))
    # With NaN, the index may be past the end.
    index = torch.searchsorted(sums, wanted[:, None], right=True).clamp_max(weights.shape[-1] - 1)
    before = torch.where(index > 0, sums.gather(-1, (index - 1).clamp_min(0)), 0)
    return index.squeeze(1), wanted - before.squeeze(1)
