"""The clock of a check: wall time minus the time that its processes waited for a free core.

Guarantees: a busy machine does not use up a run's budget (a wall clock fails correct programs under load), but a
program that sleeps does, and so does one that runs, on any number of threads. If the kernel keeps no ``schedstat``, it
is the wall clock.
"""

from __future__ import annotations

import os
import time

NOWHERE = -1


def open_processes() -> int:
    """Return a descriptor of this system's /proc, for a sandbox that has none; or NOWHERE."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return NOWHERE


def number_in(processes: int) -> int:
    """Return this process's number in a /proc, given by its descriptor."""
    try:
        return int(os.readlink("self", dir_fd=processes))
    except OSError:
        return os.getpid()


def measures_delay(processes: int) -> bool:
    """Return whether this kernel reports how long a process waited for a core."""
    # Without CONFIG_SCHED_INFO the file exists and says "0 0 0".
    return any(ran > 0 for ran, _ in _threads(processes, number_in(processes)).values())


class Clock:
    """Seconds that processes which take turns have had together since the clock was made.

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
        """Seconds since the start, without those in which a process waited for a core while the others did not run."""
        ran, waited = self._schedule()
        # A process woken by another waits while that one still runs. Such time counts as both, and with two processes
        # that talk all the time it is a third of the total. So running time is never subtracted.
        return max(self.wall_seconds - (waited - self._waited_at_start), ran - self._ran_at_start)

    def _schedule(self) -> tuple[float, float]:
        """Return how long all threads ran and waited, in seconds; those that have ended keep their last values."""
        for number in self._numbers:
            self._known |= _threads(self._processes, number)
        return sum(ran for ran, _ in self._known.values()), sum(waited for _, waited in self._known.values())


def _threads(processes: int, number: int) -> dict[int, tuple[float, float]]:
    """Return how long each thread of a process ran and waited, in seconds, by thread number."""
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
