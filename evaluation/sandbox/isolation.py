"""Which layers of confinement a system has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Isolation:
    """What programs are confined by.

    Attributes:
        active: the layers that they are under.
        missing: the layers that this system lacks; without them a program may do what they would have stopped.
    """

    active: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.active) + (f"; missing: {', '.join(self.missing)}" if self.missing else "")
