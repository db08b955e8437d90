"""A search in plain lines, without a terminal: one per trial that is over, and one per message."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TextIO

from search.progress import SearchStatus
from search.views.tracked import STOPPING, Tracked, clock, ended_line, escaped, status_text

_JOINT = "  ·  "
# A phase that takes longer than this says how far it is.
_QUIET_SECONDS = 30.0


class PlainLines(Tracked):
    """Writes plain lines to a stream.

    Args:
        stream: stderr, or a file.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._last_line = time.monotonic()

    def step(self, done: int, total: int) -> None:
        """Say how far the phase is, if nothing has been said for a while."""
        super().step(done, total)
        if time.monotonic() - self._last_line > _QUIET_SECONDS:
            where = f"{self.part} {self.done}/{self.total}: {self.model}" if self.model else self.part
            phase = [f"{self.doing} {done}/{total}"] if self.doing else []
            self.say(_JOINT.join([where, *phase, *self._outlook()]))

    def scored(
        self, score: float | None, seconds: float, status: SearchStatus, note: str = "", ended: str = "failed"
    ) -> None:
        """Write a line for a trial that is over."""
        self.note_end(status)
        line = ended_line(self, score, seconds, ended)
        self.say(_JOINT.join([line, *([note] if note else []), *self._outlook()]))

    def say(self, message: str) -> None:
        """Write a message."""
        self._last_line = time.monotonic()
        print(escaped(message), file=self._stream, flush=True)

    def stopping(self) -> None:
        """Say that the search will stop, past all buffers."""
        with contextlib.suppress(OSError):  # nobody is there to read it
            os.write(self._stream.fileno(), f"{STOPPING}\n".encode())

    def _outlook(self) -> list[str]:
        left, stands = self.seconds_left(), status_text(self.status)
        return [*([f"{clock(left)} left"] if left and round(left) else []), *([stands] if stands else [])]
