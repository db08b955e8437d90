"""Counts in words, as people read them: ``1 trial``, ``2,000 trials``."""

from __future__ import annotations


def counted(count: int, one: str, several: str = "") -> str:
    """Return a number of things in words.

    Args:
        count: the number.
        one: what a single thing is called.
        several: what several are called, if that is not `one` with an s: ``problems are``.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
