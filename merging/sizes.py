"""Sizes in bytes: how users write and read them, and how they limit what is taken together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMG]B?|B|)", re.IGNORECASE)
# In mergekit-yaml a single B is a billion.
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_SHOWN = (("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("bytes", 1))


def parse_size(value: object) -> int:
    """Return the bytes of ``24GB``, ``500M``, ``5B`` (5GB, as in mergekit) or a plain number. Raises ValueError."""
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a size; write it like 24GB or 500MB")
    return int(float(match["number"]) * _UNITS[match["unit"][:1].upper()])


def shown_size(count: int) -> str:
    """Return a number of bytes in the largest unit that does not exceed it, gigabytes with one decimal."""
    unit, factor = next(((unit, factor) for unit, factor in _SHOWN if count >= factor), _SHOWN[-1])
    return f"{count / factor:.{1 if unit == 'GB' else 0}f} {unit}"


def runs(items: Iterable[_Item], size: Callable[[_Item], int], limit: int) -> Iterator[list[_Item]]:
    """Yield runs of items of at most `limit` bytes together; a larger item is a run of its own."""
    run: list[_Item] = []
    total = 0
    for item in items:
        if run and total + size(item) > limit:
            yield run
            run, total = [], 0
        run.append(item)
        total += size(item)
    if run:
        yield run
