"""The clock of a check: time on the wall, less the time that its processes waited for a free core.

Guarantees: a busy machine does not eat a run's budget (a wall clock fails correct programs under load), a program that
sleeps still runs out of it, and so does one that runs, on however many threads. Where the kernel keeps no
``schedstat``, it is the wall clock.
"""

from __future__ import annotations

import os
import time

NOWHERE = -1


def open_processes() -> int:
    """Return a descriptor of this system's /proc, which shows the processes of a sandbox that has none; or NOWHERE."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return NOWHERE


def number_in(processes: int) -> int:
    """Return the number that this process has in a /proc, by its descriptor."""
    try:
        return int(os.readlink("self", dir_fd=processes))
    except OSError:
        return os.getpid()


def measures_delay(processes: int) -> bool:
    """Return whether this kernel tells how long a process waited for a core."""
    # Without CONFIG_SCHED_INFO the file is there and says "0 0 0".
    return any(ran > 0 for ran, _ in _threads(processes, number_in(processes)).values())


class Clock:
    """Seconds that some processes have had together since the clock was made; they take turns, so it is one budget.

    Args:
        processes: the descriptor of /proc.
        numbers: of the processes, there.
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
        """Seconds since the start, without those in which a process waited for a core and the others did not run."""
        ran, waited = self._schedule()
        # One that was woken by another waits while that one goes on: such time is both waiting and running, and where
        # two talk all the time, as the sides of a check do, it is a third of all. What ran is never subtracted.
        return max(self.wall_seconds - (waited - self._waited_at_start), ran - self._ran_at_start)

    def _schedule(self) -> tuple[float, float]:
        """Return how long the threads ran and waited, in seconds; one that is gone counts as it did last."""
        for number in self._numbers:
            self._known |= _threads(self._processes, number)
        return sum(ran for ran, _ in self._known.values()), sum(waited for _, waited in self._known.values())


def _threads(processes: int, number: int) -> dict[int, tuple[float, float]]:
    """Return how long each thread of a process ran and waited, in seconds, by the thread's number."""
    if processes == NOWHERE:
        return {}
    found = {}
    try:
        folder = os.open(f"{number}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=processes)
    except OSError:
        return {}
    try:
        for thread in os.listdir(folder):  # noqa: PTH208 - a descriptor
            try:
                file = os.open(f"{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                continue  # it has ended
            try:
                ran, waited = os.read(file, 100).split()[:2]
                found[int(thread)] = int(ran) / 1e9, int(waited) / 1e9
            except (OSError, ValueError):
                pass
            finally:
                os.close(file)
    finally:
        os.close(folder)
    return found
