"""The time that a check has, and what it means when that is over."""

from __future__ import annotations

from evaluation.sandbox.clock import Clock
from evaluation.sandbox.control_messages import Judged


class TimeBudget:
    """The budget of one check, from its start on.

    Args:
        clock: the time that its processes have had.
        seconds: the time that they may have.
        hard_wall_seconds: wall time; a check that had this, but not its budget, says something about the machine.
    """

    def __init__(self, clock: Clock, seconds: float, hard_wall_seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._hard_wall_seconds = hard_wall_seconds

    def judge(self) -> Judged | float:
        """Return the verdict on a check whose time is over, or else in how many seconds to ask again."""
        if self._clock.wall_seconds < self._seconds:  # most checks end this soon: do not look at the processes
            return self._seconds - self._clock.wall_seconds
        effective = self._clock.effective_seconds
        if effective >= self._seconds:
            return Judged("timeout", "timed out")
        if self._clock.wall_seconds >= self._hard_wall_seconds:
            return Judged("starved", "the machine gave the run no time")
        return self._seconds - effective
