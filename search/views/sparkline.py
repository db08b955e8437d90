"""A sparkline: numbers as a row of characters, each as high as its number."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
NO_NUMBER = "x"
"""The character for a missing number, such as the score of a trial that was pruned or failed."""


def sparkline(values: Sequence[float | None], low: float, high: float, *, blocks: bool = True) -> str:
    """Return a character for each value.

    Args:
        values: the numbers; None becomes `NO_NUMBER`.
        low: the number that the lowest character stands for.
        high: the number that the highest one stands for.
        blocks: whether the encoding has block characters.
    """
    signs = _BLOCKS if blocks else _ASCII
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0

    def sign(value: float) -> str:
        return signs[min(max(round((value - low) * scale), 0), len(signs) - 1)]

    return "".join(NO_NUMBER if value is None else sign(value) for value in values)


def best_of_each(values: Sequence[float | None], width: int) -> tuple[list[float | None], int]:
    """Divide values into at most `width` groups; return the highest value of each, and the size of a group."""
    size = max(1, -(-len(values) // max(width, 1)))
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [max((it for it in group if it is not None), default=None) for group in groups], size
