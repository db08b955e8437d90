"""The clock of a check: time on the wall, less the time that its processes waited for a free core.

Guarantees: a busy machine does not eat a run's budget (a wall clock fails correct programs under load), and a program
that sleeps still runs out of it. Where the kernel keeps no ``schedstat``, it is the wall clock.
"""

from __future__ import annotations

import os
import time


class Clock:
    """Seconds that some processes have had together since the clock was made; they take turns, so it is one budget."""

    def __init__(self, processes: tuple[int, ...]) -> None:
        self._files = [file for process in processes if (file := _open(process)) is not None]
        self._delay_at_start = self._delay()
        self._start = time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def effective_seconds(self) -> float:
        """Seconds since the start, without those spent runnable but not running."""
        return self.wall_seconds - max(0.0, self._delay() - self._delay_at_start)

    def _delay(self) -> float:
        """Return the summed run delay, in seconds; a process that is gone counts as it did at the start."""
        total = 0
        for file in self._files:
            try:
                total += int(os.pread(file, 100, 0).split()[1])
            except (OSError, IndexError, ValueError):
                continue
        return total / 1e9


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
