"""What a search says, kept for a test; perhaps of one that is stopped once it has begun."""

from __future__ import annotations

from typing import Any

from search.progress import Progress


class Phases(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.phases: set[str] = set()
        self.said: list[str] = []
        self.notes: list[str] = []

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:  # noqa: ARG002
        self.begun.append(f"{what} {total}{' until a deadline' if deadline else ''}")

    def phase(self, name: str) -> None:
        self.phases.add(name)

    def say(self, message: str) -> None:
        # Not every machine has a bubblewrap, and every search says what it could prove.
        if not message.startswith(("the sandbox works without bubblewrap", "8 report problems prove, in 8 of 10")):
            self.said.append(message)

    def scored(self, *told: Any) -> None:
        self.notes += told[3:4] or [""]


class Stopped(KeyboardInterrupt):
    """Ends a search that has begun."""


class Stops(Phases):
    """Remembers what was said, and ends the search before it scores anything."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        super().begin(what, total, deadline, later)
        if what == "parents":
            raise Stopped
