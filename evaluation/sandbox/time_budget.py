"""What it means when the time of a check is over."""

from __future__ import annotations

from evaluation.sandbox.clock import Clock
from evaluation.sandbox.control_messages import Judged, Run


def judge_time(clock: Clock, run: Run) -> Judged | float:
    """Return the verdict on a run whose time is over, or else the seconds after which to ask again.

    A run that had `hard_wall_seconds`, but not its budget, says something about the machine.
    """
    if clock.wall_seconds < run.budget_seconds:  # most checks end this soon: do not look at the processes
        return run.budget_seconds - clock.wall_seconds
    effective = clock.effective_seconds
    if effective >= run.budget_seconds:
        return Judged("timeout", "timed out")
    if clock.wall_seconds >= run.hard_wall_seconds:
        return Judged("starved", "the machine gave the run no time")
    return run.budget_seconds - effective
