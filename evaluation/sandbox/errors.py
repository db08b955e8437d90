"""Why nothing is executed here."""

from __future__ import annotations

from evaluation.sandbox.isolation import Isolation


class SandboxError(Exception):
    """The sandbox cannot be started on this system."""


class ConfinementError(SandboxError):
    """This system lacks layers without which no foreign code is executed.

    Attributes:
        isolation: what it has.
    """

    def __init__(self, isolation: Isolation) -> None:
        super().__init__(f"foreign code is not executed here: {isolation.shortfall}; `merge-search check` tells more")
        self.isolation = isolation
