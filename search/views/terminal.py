"""Shows a search while it runs: live lines on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from search.board.names import NAME_WIDTH, record_name, shorten
from search.views.progress import Progress, SearchStatus

_STOPPING = "stopping when this trial is done; once more to stop at once"
_JOINT = "  ·  "
# Where nothing is live, a phase that takes longer than this says how far it is.
_QUIET_SECONDS = 30.0


class Terminal(Progress):
    """Shows what runs and how the search stands: live if stderr is a terminal, else in plain lines.

    Either way a trial that is over leaves a line; without a terminal, a phase that takes long does, too.

    Use as a context manager.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._what = self._name = self._phase = self._counts = self._status = self._notice = ""
        self._total = self._done = 0
        self._first: int | None = None
        self._later = 0.0
        self._pace: float | None = None  # seconds per trial
        self._deadline: float | None = None
        self._began = self._turn = self._last_line = time.monotonic()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """Begin a part of the search."""
        self._what, self._total, self._deadline, self._later = what, total, deadline, later
        self._name = self._phase = self._counts = ""
        self._began = self._turn = time.monotonic()
        self._done, self._first = 0, None

    def trial(self, name: str, done: int) -> None:
        """Show which trial runs."""
        self._first = done if self._first is None else self._first
        self._name, self._done, self._phase, self._counts = shorten(name, NAME_WIDTH), done, "", ""

    def phase(self, name: str) -> None:
        """Show the phase."""
        self._phase, self._counts = name, ""

    def step(self, done: int, total: int) -> None:
        """Show how far the phase is."""
        self._counts = f" {done}/{total}"
        if not self._live and time.monotonic() - self._last_line > _QUIET_SECONDS:
            self.say(self._line())

    def scored(
        self, score: float | None, seconds: float, status: SearchStatus, note: str = "", ended: str = "failed"
    ) -> None:
        """Print a line for a trial that is over."""
        self._done += 1
        self._status = _shown(status)
        self._turn = time.monotonic()
        self._pace = (self._turn - self._began) / max(1, self._done - (self._first or 0))
        shown = f"{score:.1%}" if score is not None else ended
        parts = [f"{self._what} {self._done}/{self._total}: {self._name}  {shown}  {seconds:.1f} s"]
        parts += [note] if note else []
        # On a terminal the live lines below say how the search stands.
        self.say(_JOINT.join(parts if self._live else [*parts, *self._outlook()]))

    def say(self, message: str) -> None:
        """Print a message."""
        self._last_line = time.monotonic()
        self._console.print(Text(message), soft_wrap=True)

    def stopping(self) -> None:
        """Say that the search will stop: in the live line, or past all buffers."""
        self._notice = "stopping; once more: at once"
        if not self._live:
            with contextlib.suppress(OSError):  # nobody is there to read it
                os.write(self._console.file.fileno(), f"{_STOPPING}\n".encode())

    def _render(self) -> Text:
        return Text("\n".join(_lines(self._parts(), self._console.width)), overflow="ellipsis", no_wrap=True)

    def _line(self) -> str:
        return _JOINT.join(self._parts())

    def _parts(self) -> list[str]:
        parts = [self._notice] if self._notice else []
        parts.append(f"{self._what} {self._done}/{self._total}: {self._name}" if self._name else self._what)
        parts += [self._phase + self._counts] if self._phase else []
        return [*parts, *self._outlook()]

    def _outlook(self) -> list[str]:
        left = self._seconds_left()
        time_left = [f"{_clock(left)} left"] if left and round(left) else []
        return [*time_left, *([self._status] if self._status else [])]

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        by_deadline = self._deadline - now if self._deadline is not None else None
        by_pace = None
        if self._pace is not None:
            # What the running trial has used is subtracted, up to what a trial takes.
            used = min(now - self._turn, self._pace)
            by_pace = self._pace * (self._total - self._done + self._later) - used
        known = [left for left in (by_deadline, by_pace) if left is not None]
        return max(0.0, min(known)) if known else None


def _shown(status: SearchStatus) -> str:
    best, parent = status.best, status.best_parent
    found = [f"best {best.search.score:.1%} ({record_name(best)})"] if best else []
    found += [f"best parent {parent.search.score:.1%}"] if parent else []
    counts = {"pruned": status.pruned, "failed": status.failed}
    return ", ".join([*found, *(f"{count} {state}" for state, count in counts.items() if count)])


def _lines(parts: list[str], width: int) -> list[str]:
    """Return the parts in as few lines as hold them."""
    lines = parts[:1]
    for part in parts[1:]:
        longer = _JOINT.join([lines[-1], part])
        lines[-1:] = [longer] if cell_len(longer) <= width else [lines[-1], part]
    return lines


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
