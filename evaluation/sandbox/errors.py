"""The errors that say why the sandbox does not execute anything."""

from __future__ import annotations

from evaluation.sandbox.isolation import Isolation


class SandboxError(Exception):
    """The sandbox cannot be started on this system."""


class ConfinementError(SandboxError):
    """This system lacks layers that the sandbox requires.

    Attributes:
        isolation: the layers that it has.
    """

    def __init__(self, isolation: Isolation) -> None:
        super().__init__(
            f"foreign code is not executed here: {isolation.shortfall}; run `merge-search check` for details"
        )
        self.isolation = isolation
