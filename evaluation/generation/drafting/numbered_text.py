"""Guesses for numbered text: text that repeats itself except for numbers, which grow in steps.

A weak model that is lost often counts up to its last token: ``if n == 31: return 31``. Such text occurs nowhere else,
so other guesses fail, and a whole batch waits for that request while each number costs a pass
(tests/benchmarks/generation.py counts the passes with and without these guesses).

Needs a tokenizer with one token per digit, such as SmolLM2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from evaluation.generation.text import decode

# How many tokens at the end of a text are searched for two rounds of a repetition.
WINDOW = 192
NO_DIGITS: Mapping[int, str] = {}


def digits_of(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    """Return the digit of each digit token; nothing if the tokenizer joins digits."""
    tokens = tokenizer.encode("0123456789", add_special_tokens=False)[-10:]
    texts = [decode([token], tokenizer) for token in tokens]
    return dict(zip(tokens, texts, strict=True)) if texts == list("0123456789") else NO_DIGITS


def continued(text: Sequence[int], digits: Mapping[int, str], most: int) -> Sequence[int]:
    """Return ``most`` tokens that continue a numbered text; none for any other text.

    Args:
        text: its tokens, or the last of them.
        digits: the digit of each digit token.
        most: how many tokens to return.
    """
    if digits.keys().isdisjoint(text):
        return []
    end = len(text)
    while end and text[end - 1] in digits:  # a number that may be incomplete
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
    """Return the tokens of a text, with each number as a string of digits."""
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
    """Return after how many items a text repeats itself except for its numbers; 0 if it does not, or they do too."""
    shape = [0 if isinstance(item, str) else item + 1 for item in items]
    for period in range(1, len(shape) // 2 + 1):
        if shape[-1] != shape[-1 - period]:  # usually true, and faster to check than slices
            continue
        last, before = slice(-period, None), slice(-2 * period, -period)
        if shape[last] == shape[before] and items[last] != items[before]:
            return period
    return 0


def _next(before: str, last: str) -> str:
    """Return the digits of the number that follows two others, padded with zeros if the last one is."""
    width = len(last) if last.startswith("0") else 0
    return str(max(0, 2 * int(last) - int(before))).zfill(width)
