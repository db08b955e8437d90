"""The clock of a check: time on the wall, less the time that its processes waited for a free core.

Guarantees: a busy machine does not eat a run's budget (a wall clock fails correct programs under load), a program that
sleeps still runs out of it, and so does one that runs. Where the kernel keeps no ``schedstat``, it is the wall clock.
"""

from __future__ import annotations

import os
import time


class Clock:
    """Seconds that some processes have had together since the clock was made; they take turns, so it is one budget."""

    def __init__(self, processes: tuple[int, ...]) -> None:
        files = [file for process in processes if (file := _open(process)) is not None]
        self._read = dict.fromkeys(files, (0.0, 0.0))
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
        """Return how long the processes ran and waited, in seconds; one that is gone counts as it did last."""
        for file in self._read:
            try:
                ran, waited = os.pread(file, 100, 0).split()[:2]
            except (OSError, ValueError):
                continue
            self._read[file] = int(ran) / 1e9, int(waited) / 1e9
        return sum(ran for ran, _ in self._read.values()), sum(waited for _, waited in self._read.values())


def measures_delay() -> bool:
    """Return whether this kernel tells how long a process waited for a core."""
    file = _open(os.getpid())
    if file is None:
        return False
    os.close(file)
    return True


def _open(process: int) -> int | None:
    try:
        file = os.open(f"/proc/{process}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    # Without CONFIG_SCHED_INFO the file is there and says "0 0 0".
    if os.pread(file, 100, 0).split()[:1] in ([], [b"0"]):
        os.close(file)
        return None
    return file
