"""The clock of a check: wall time, less the time that its processes waited for a free core.

Guarantees: a busy machine does not use up a run's budget (a wall clock fails correct programs under load). A program
that sleeps uses it up, and so does one that runs, on any number of threads. If the kernel keeps no ``schedstat``, wall
time counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial

from evaluation.sandbox.control_messages import Judged, Run

NOWHERE = -1


def open_processes() -> int:
    """Return a descriptor of this system's /proc, for sandboxes without one; NOWHERE if this system has none either."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return NOWHERE


def number_in(processes: int) -> int:
    """Return this process's number in a /proc, given its descriptor."""
    try:
        return int(os.readlink("self", dir_fd=processes))
    except OSError:
        return os.getpid()


def measures_delay(processes: int) -> bool:
    """Return whether this kernel measures how long a process waited for a core."""
    # Without CONFIG_SCHED_INFO the file exists, but reads "0 0 0".
    return any(ran > 0 for ran, _ in _threads(processes, number_in(processes)).values())


class Clock:
    """The seconds that some processes have used together since the clock started; they take turns, and share a budget.

    Args:
        processes: the descriptor of /proc.
        numbers: the numbers of the processes there.
    """

    def __init__(self, processes: int, numbers: tuple[int, ...]) -> None:
        self._processes = processes
        self._numbers = numbers
        self._known: dict[int, tuple[float, float]] = {}
        self._start = time.monotonic()
        self._ran_at_start, self._waited_at_start = self._schedule()

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def effective_seconds(self) -> float:
        """Seconds since the start, minus those in which a process waited for a core and the others did not run."""
        ran, waited = self._schedule()
        # A woken process waits while the one that woke it goes on, so that this time is both waiting and running. It is
        # a third of the time of two processes that talk all the time, as the sides of a check do. So running time is
        # never subtracted.
        return max(self.wall_seconds - (waited - self._waited_at_start), ran - self._ran_at_start)

    def _schedule(self) -> tuple[float, float]:
        """Return how long the threads ran and waited, in seconds; an ended thread keeps its last values."""
        for number in self._numbers:
            self._known |= _threads(self._processes, number)
        return sum(ran for ran, _ in self._known.values()), sum(waited for _, waited in self._known.values())


def judge_time(clock: Clock, run: Run) -> Judged | float:
    """Return the verdict on a run whose time is over, or else the seconds after which to ask again.

    A run that took `hard_wall_seconds` without using its budget is the machine's fault.
    """
    if clock.wall_seconds < run.budget_seconds:  # most checks end before this, without a look at the processes
        return run.budget_seconds - clock.wall_seconds
    effective = clock.effective_seconds
    if effective >= run.budget_seconds:
        return Judged("timeout", "timed out")
    if clock.wall_seconds >= run.hard_wall_seconds:
        return Judged("starved", "the machine gave the run no time")
    return run.budget_seconds - effective


def _threads(processes: int, number: int) -> dict[int, tuple[float, float]]:
    """Return how long each thread of a process ran and waited, in seconds, by the thread's number."""
    found = {}
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:  # the process may have ended
        folder = os.open(f"{number}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=processes)
        opened.callback(os.close, folder)
        in_folder = partial(os.open, dir_fd=folder)
        for thread in os.listdir(folder):  # noqa: PTH208 - a descriptor
            with (
                contextlib.suppress(OSError, ValueError),  # the thread may have ended
                open(f"{thread}/schedstat", "rb", buffering=0, opener=in_folder) as file,
            ):
                ran, waited = file.read(100).split()[:2]
                found[int(thread)] = int(ran) / 1e9, int(waited) / 1e9
    return found
