"""What a person sees while a search runs: one live line on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

_STOPPING = "stopping when this trial is done; once more to stop at once"
# Where nothing is live, a phase that takes longer than this says how far it is.
_QUIET_SECONDS = 30.0


class Progress(Protocol):
    """What a search tells while it runs."""

    def begin(self, what: str, total: int, deadline: float | None = None) -> None:
        """A part of the search begins, or goes on, of so many trials; `deadline` is on time.monotonic's clock."""

    def trial(self, name: str, done: int) -> None:
        """A trial begins; so many are done."""

    def phase(self, name: str) -> None:
        """The current trial enters a phase."""

    def step(self, done: int, total: int) -> None:
        """So much of the current phase is done."""

    def scored(self, score: float | None, seconds: float, standing: str = "", note: str = "") -> None:
        """The current trial is over: its score, or None if it failed, and how the search stands now."""

    def say(self, message: str) -> None:
        """Something happened that a person should know."""

    def stopping(self) -> None:
        """The search was asked to stop. Called by a signal handler, so it must not wait for anything."""


class Silent:
    """Tells nobody; for use from Python."""

    def begin(self, what: str, total: int, deadline: float | None = None) -> None:
        """Do nothing."""

    def trial(self, name: str, done: int) -> None:
        """Do nothing."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def scored(self, score: float | None, seconds: float, standing: str = "", note: str = "") -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Do nothing."""


class Terminal:
    """A live line where stderr is a terminal, a plain line a trial (and a phase that takes long) where it is not.

    Use as a context manager.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._what = self._name = self._phase = self._counts = self._standing = self._notice = ""
        self._total = self._done = 0
        self._first: int | None = None
        self._deadline: float | None = None
        self._began = self._last_line = time.monotonic()
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

    def begin(self, what: str, total: int, deadline: float | None = None) -> None:
        """Begin a part of the search."""
        self._what, self._total, self._deadline = what, total, deadline
        self._name = self._phase = self._counts = ""
        self._began, self._first = time.monotonic(), None

    def trial(self, name: str, done: int) -> None:
        """Show which trial runs."""
        self._first = done if self._first is None else self._first
        self._name, self._done, self._phase, self._counts = name, done, "", ""

    def phase(self, name: str) -> None:
        """Show the phase."""
        self._phase, self._counts = name, ""

    def step(self, done: int, total: int) -> None:
        """Show how far the phase is."""
        self._counts = f" {done}/{total}"
        if not self._live and time.monotonic() - self._last_line > _QUIET_SECONDS:
            self.say(self._line())

    def scored(self, score: float | None, seconds: float, standing: str = "", note: str = "") -> None:
        """Print a line for a trial that is over."""
        self._done += 1
        self._standing = standing
        shown = f"{score:.1%}" if score is not None else "failed"
        parts = [f"{self._what} {self._done}/{self._total}: {self._name}  {shown}  {seconds:.1f} s"]
        self.say("  ·  ".join([*parts, *([note] if note else []), *self._outlook()]))

    def say(self, message: str) -> None:
        """Print a message."""
        self._last_line = time.monotonic()
        self._console.print(Text(message), soft_wrap=True)

    def stopping(self) -> None:
        """Say that the search will stop: in the live line, or past all buffers."""
        self._notice = "stopping; once more: at once"
        if not self._live:
            os.write(self._console.file.fileno(), f"{_STOPPING}\n".encode())

    def _render(self) -> Text:
        return Text(self._line(), overflow="ellipsis", no_wrap=True)

    def _line(self) -> str:
        parts = [self._notice] if self._notice else []
        parts.append(f"{self._what} {self._done}/{self._total}: {self._name}" if self._name else self._what)
        if self._phase:
            parts.append(self._phase + self._counts)
        return "  ·  ".join([*parts, *self._outlook()])

    def _outlook(self) -> list[str]:
        left = self._seconds_left()
        return [*([self._standing] if self._standing else []), *([f"{_clock(left)} left"] if left is not None else [])]

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        by_deadline = self._deadline - now if self._deadline is not None else None
        finished = self._done - (self._first or 0)
        by_rate = (now - self._began) / finished * (self._total - self._done) if finished > 0 else None
        known = [left for left in (by_deadline, by_rate) if left is not None]
        return max(0.0, min(known)) if known else None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
