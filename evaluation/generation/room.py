"""Room: what an evaluation may take of the memory, decided by whoever knows what else is there."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ROWS = 256
"""The most rows of a batch where nobody gives another number."""

PLAIN_ROWS = 64
"""The rows of plain generation where nobody gives another number."""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of a backend, as plain data; the defaults set no limit but the backend's own.

    Attributes:
        cache_bytes: for the keys and values of one batch, over all devices of the model; None has no limit but the
            backend's rows, which are halved when memory runs out.
        plain_rows: the rows of plain generation: one number for a search, whatever memory is free.
        engine_bytes: what a vLLM engine may take of a GPU in all; None leaves it to vLLM.
        engine_cache_bytes: what it may take for keys and values; None leaves it to vLLM.
    """

    cache_bytes: int | None = None
    plain_rows: int = PLAIN_ROWS
    engine_bytes: int | None = None
    engine_cache_bytes: int | None = None

    def within(self, other: Room) -> Room:
        """Return the room that is in both."""
        return Room(
            _lesser(self.cache_bytes, other.cache_bytes),
            min(self.plain_rows, other.plain_rows),
            _lesser(self.engine_bytes, other.engine_bytes),
            _lesser(self.engine_cache_bytes, other.engine_cache_bytes),
        )


def _lesser(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


UNLIMITED = Room()
