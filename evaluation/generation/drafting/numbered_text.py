"""Counting: how a text goes on that repeats itself but for numbers, which grow by steps.

A weak model that has lost its way often counts: ``if n == 31: return 31``, and so on to the last token that it is
allowed. No such text stands anywhere else, and each number would cost a pass.

Guarantees: no more than guesses. Only for tokenizers that write each digit of a number as a token of its own, such as
SmolLM2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from evaluation.generation.text import decode

# How much of a text's end is looked at: two rounds of what repeats stand in it.
WINDOW = 192
NO_DIGITS: Mapping[int, str] = {}


def digits_of(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    """Return the digit that each token of one stands for; nothing if the tokenizer writes several digits as one."""
    tokens = tokenizer.encode("0123456789", add_special_tokens=False)[-10:]
    texts = [decode([token], tokenizer) for token in tokens]
    return dict(zip(tokens, texts, strict=True)) if texts == list("0123456789") else NO_DIGITS


def continued(text: Sequence[int], digits: Mapping[int, str], most: int) -> Sequence[int]:
    """Return up to ``most`` tokens by which a text goes on if it counts; none if it does not.

    Args:
        text: its tokens, or the last of them.
        digits: the digit that each token of one stands for.
        most: how many to return.
    """
    end = len(text)
    while end and text[end - 1] in digits:  # a number that may not be whole
        end -= 1
    begun = text[end:]
    items = _items(text[:end], digits)
    period = _period(items)
    if not period:
        return []
    tokens = {digit: token for token, digit in digits.items()}
    found: list[int] = []
    while len(found) < most + len(begun):
        last, before = items[-period], items[-2 * period]
        items.append(_next(before, last) if isinstance(last, str) and isinstance(before, str) else last)
        found += [tokens[digit] for digit in items[-1]] if isinstance(items[-1], str) else [items[-1]]
    return found[len(begun) :][:most] if found[: len(begun)] == list(begun) else []


def _items(text: Sequence[int], digits: Mapping[int, str]) -> list[int | str]:
    """Return the tokens of a text, each number as its digits."""
    items: list[int | str] = []
    inside = False
    for token in text:
        if token not in digits:
            items.append(token)
        elif inside:
            items[-1] += digits[token]  # type: ignore[operator]
        else:
            items.append(digits[token])
        inside = token in digits
    return items


def _period(items: Sequence[int | str]) -> int:
    """Return after how many items a text repeats itself but for its numbers; 0 if these stay the same."""
    shape = [0 if isinstance(item, str) else item + 1 for item in items]
    for period in range(1, len(shape) // 2 + 1):
        last, before = slice(-period, None), slice(-2 * period, -period)
        if shape[last] == shape[before] and items[last] != items[before]:
            return period
    return 0


def _next(before: str, last: str) -> str:
    """Return the number that follows two, as its digits; as wide, if they are padded with zeros."""
    width = len(last) if last.startswith("0") else 0
    return str(max(0, 2 * int(last) - int(before))).zfill(width)
