"""The layers that a run is put under, and which of them this system has.

Guarantees: a layer is reported as active only after a forked probe has been put under it. A layer that the system
lacks is left out; where Landlock is missing, the seccomp filter refuses every open for writing in its stead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from evaluation.sandbox import landlock, limits, seccomp
from evaluation.sandbox.clock import measures_delay
from evaluation.sandbox.isolation import Isolation


class Confinement:
    """What a fork applies to itself, prepared once in its zygote."""

    def __init__(self, scratch: Path | None, budget_seconds: float) -> None:
        self._scratch = scratch
        self._budget_seconds = budget_seconds
        self._ruleset: int | None = None
        self._filter: bytes | None = None
        if landlock.abi() > 0 and _works(lambda: landlock.enforce(landlock.build(scratch))):
            self._ruleset = landlock.build(scratch)
        program = seccomp.build(allow_writes=self._ruleset is not None) if seccomp.supported() else b""
        if program and _works(lambda: seccomp.install(program)):
            self._filter = program

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What must stay open until ``apply``."""
        return () if self._ruleset is None else (self._ruleset,)

    @property
    def stops_forks(self) -> bool:
        """Whether a run can make no process."""
        return self._filter is not None

    def apply(self) -> None:
        """Confine this process for good. Raises OSError when a layer that worked in the probe fails."""
        os.chdir(self._scratch or "/")
        limits.restrict(self._budget_seconds)
        if self._ruleset is not None:
            landlock.enforce(self._ruleset)
            os.close(self._ruleset)
        if self._filter is not None:
            seccomp.install(self._filter)

    @property
    def isolation(self) -> Isolation:
        """The active layers, and the missing ones."""
        active = ["two processes", "rlimits", "no-new-privs"]
        missing = []
        if self._ruleset is None:
            missing.append("landlock")
        else:
            active.append(f"landlock (abi {landlock.abi()})")
        if self._filter is None:
            missing.append("seccomp")
        else:
            active.append("seccomp" if self._ruleset is not None else "seccomp (no writes)")
        active.append("clock less run delay" if measures_delay() else "wall clock")
        return Isolation(tuple(active), tuple(missing))


def _works(layer: Callable[[], None]) -> bool:
    """Return whether a fork can put itself under a layer, and lives on."""
    process = os.fork()
    if process == 0:
        try:
            limits.forbid_new_privileges()
            layer()
            os.getpid()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    return status == 0
