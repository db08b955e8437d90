"""Budgets: the memory that parents may take.

Does not ask how much is free: whoever knows what else a process will take makes the budget.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from merging.residency.streaming import CHUNK


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that parents and their statistics may take: of the device's memory, and of the host's.

    Attributes:
        device: of the device's memory; 0 where that is the host's.
        host: of the host's memory.
        chunk: of the parents that do not fit, the bytes that are copied to the device together (see streaming.py).
        spare: of the host's memory, what may be taken for what a full device leaves of its own bytes.
    """

    device: int
    host: int
    chunk: int = CHUNK
    spare: int = 0

    @classmethod
    def in_all(cls, limit: int, on_gpu: bool) -> Budget:
        """Return the budget of parents that may take so much in all, and of the host's memory what a device lacks."""
        return cls(limit, 0, spare=limit) if on_gpu else cls(0, limit)

    def part(self, part: float) -> Budget:
        """Return the part of a device among several."""
        device, host, spare = (int(size * part) for size in (self.device, self.host, self.spare))
        return replace(self, device=device, host=host, spare=spare)


UNLIMITED = Budget(sys.maxsize, sys.maxsize)
"""Fills the device until it says that it is full, and then the host."""
