"""Budgets: the memory that parents may take.

Does not ask how much is free: the caller, who knows what else the process will take, makes the budget.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from merging.residency.streaming import CHUNK


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that parents and their statistics may take: of the device's memory, and of the host's.

    Attributes:
        device: the bytes of the device's memory; 0 if that is the host's.
        host: the bytes of the host's memory.
        chunk: the bytes that are copied to the device together, of parents that do not fit (see streaming.py).
        spare: the further bytes of the host's memory that may replace those that a full device did not have.
    """

    device: int
    host: int
    chunk: int = CHUNK
    spare: int = 0

    @classmethod
    def in_all(cls, limit: int, on_gpu: bool) -> Budget:
        """Return the budget of parents that may take `limit` bytes in all; the host provides what a device lacks."""
        return cls(limit, 0, spare=limit) if on_gpu else cls(0, limit)

    def part(self, part: float) -> Budget:
        """Return the budget of one device among several, given its part of the whole."""
        device, host, spare = (int(size * part) for size in (self.device, self.host, self.spare))
        return replace(self, device=device, host=host, spare=spare)


UNLIMITED = Budget(sys.maxsize, sys.maxsize)
"""Fills the device until it runs out of memory, and then the host."""
