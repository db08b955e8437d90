"""The time that a check has, and what it means when that is over."""

from __future__ import annotations

from evaluation.sandbox.clock import Clock


class TimeBudget:
    """The budget of one check, from its start on.

    Args:
        clock: what its processes have had.
        seconds: what they may have.
        hard_wall_seconds: of time on the wall; a check that had this and not its budget tells of the machine.
    """

    def __init__(self, clock: Clock, seconds: float, hard_wall_seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._hard_wall_seconds = hard_wall_seconds

    def judge(self) -> tuple[str, str] | float:
        """Return the status and the detail of a check whose time is over, else after how many seconds to ask again."""
        if self._clock.wall_seconds < self._seconds:  # without a look at the processes: most end soon
            return self._seconds - self._clock.wall_seconds
        effective = self._clock.effective_seconds
        if effective >= self._seconds:
            return "timeout", "timed out"
        if self._clock.wall_seconds >= self._hard_wall_seconds:
            return "starved", "the machine gave the run no time"
        return self._seconds - effective
