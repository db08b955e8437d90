"""The errors of the sandbox: why nothing is executed here."""

from __future__ import annotations

from evaluation.sandbox.isolation import Isolation


class SandboxError(Exception):
    """The sandbox cannot start on this system."""


class ConfinementError(SandboxError):
    """This system lacks layers that executing foreign code requires.

    Attributes:
        isolation: the layers, active and missing.
    """

    def __init__(self, isolation: Isolation) -> None:
        super().__init__(f"foreign code is not executed here: {isolation.shortfall}; `merge-search check` shows more")
        self.isolation = isolation
