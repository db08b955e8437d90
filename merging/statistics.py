"""What depends on the parents alone: computed at most once for each tensor, whatever the candidates are.

Does not decide what is kept on which device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Statistics:
    """A memo: the statistics of a parent set, by name, tensor and parents."""

    def __init__(self) -> None:
        self._memo: dict[Hashable, object] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned the first time for this key."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]  # type: ignore[assignment]
        return value


class Last:
    """A memo of one entry: for what is large and depends on numbers that may or may not be searched."""

    def __init__(self) -> None:
        self._entry: tuple[Hashable, object] | None = None

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned for this key, if the last call was for the same."""
        if self._entry is None or self._entry[0] != key:
            self._entry = None  # its memory goes before the next one's comes
            self._entry = key, compute()
        value: T = self._entry[1]  # type: ignore[assignment]
        return value
