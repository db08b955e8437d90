"""Room: how much memory an evaluation may take, decided by the caller, who knows what else needs memory."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ROWS = 256
"""The default limit on the rows of a batch."""

PLAIN_ROWS = 64
"""The default number of rows in plain generation."""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that a backend may take; by default, only the backend's own limits hold.

    Attributes:
        cache_bytes: the bytes for the keys and values of one batch, over all devices of the model; None sets no limit
            except on the rows, which are halved when memory runs out.
        plain_rows: the rows of plain generation: one number for a whole search, whatever memory is free.
        engine_bytes: the bytes of a GPU that a vLLM engine may take in all; None leaves this to vLLM.
        engine_cache_bytes: the bytes that it may take for keys and values; None leaves this to vLLM.
    """

    cache_bytes: int | None = None
    plain_rows: int = PLAIN_ROWS
    engine_bytes: int | None = None
    engine_cache_bytes: int | None = None

    def within(self, other: Room) -> Room:
        """Return a room with the lesser of each pair of limits."""
        return Room(
            _lesser(self.cache_bytes, other.cache_bytes),
            min(self.plain_rows, other.plain_rows),
            _lesser(self.engine_bytes, other.engine_bytes),
            _lesser(self.engine_cache_bytes, other.engine_cache_bytes),
        )


def _lesser(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


UNLIMITED = Room()
