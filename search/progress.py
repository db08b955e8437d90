"""What a person sees while a search runs: one live line on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Progress(Protocol):
    """What a search tells while it runs."""

    def begin(self, what: str, total: int, deadline: float | None) -> None:
        """A search of so many trials begins, or goes on; `deadline` is on time.monotonic's clock."""

    def trial(self, name: str, done: int) -> None:
        """A trial begins; so many are done."""

    def phase(self, name: str) -> None:
        """The current trial enters a phase."""

    def step(self, done: int, total: int) -> None:
        """So much of the current phase is done."""

    def scored(self, name: str, score: float | None, seconds: float, note: str = "") -> None:
        """A trial is over: its score, or None if it failed."""

    def say(self, message: str) -> None:
        """Something happened that a person should know."""


class Silent:
    """Tells nobody; for use from Python."""

    def begin(self, what: str, total: int, deadline: float | None) -> None:
        """Do nothing."""

    def trial(self, name: str, done: int) -> None:
        """Do nothing."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def scored(self, name: str, score: float | None, seconds: float, note: str = "") -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""


class Terminal:
    """A live line where stderr is a terminal, a plain line a trial (and a phase that takes long) where it is not.

    Use as a context manager.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._live = (
            Live(console=self._console, refresh_per_second=8, transient=True) if self._console.is_terminal else None
        )
        self._what, self._name, self._phase, self._counts = "", "", "", ""
        self._total = self._done = 0
        self._best: float | None = None
        self._deadline: float | None = None
        self._began = time.monotonic()
        self._first = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def begin(self, what: str, total: int, deadline: float | None) -> None:
        """Begin a part of the search."""
        self._what, self._total, self._deadline = what, total, deadline
        self._began, self._first = time.monotonic(), -1

    def trial(self, name: str, done: int) -> None:
        """Show which trial runs."""
        self._first = done if self._first < 0 else self._first
        self._name, self._done, self._phase, self._counts = name, done, "", ""
        self._show()

    def phase(self, name: str) -> None:
        """Show the phase."""
        self._phase, self._counts = name, ""
        self._show()

    def step(self, done: int, total: int) -> None:
        """Show how far the phase is."""
        self._counts = f" {done}/{total}"
        self._show()
        if not self._live and time.monotonic() - self._last_line > 30:
            self._print(self._line())

    def scored(self, name: str, score: float | None, seconds: float, note: str = "") -> None:
        """Print a line for a trial that is over."""
        if score is not None:
            self._best = score if self._best is None else max(self._best, score)
        shown = f"{score:.1%}" if score is not None else "failed"
        best = f"  best {self._best:.1%}" if self._best is not None else ""
        self._print(f"{name:<24} {shown:>7} {seconds:7.1f} s{best}{'  ' + note if note else ''}")

    def say(self, message: str) -> None:
        """Print a message."""
        self._print(message)

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(Text(line), soft_wrap=True)

    def _show(self) -> None:
        if self._live:
            self._live.update(Text(self._line(), overflow="ellipsis", no_wrap=True))

    def _line(self) -> str:
        parts = [f"{self._what} {self._name}", f"{self._done}/{self._total} done"]
        if self._phase:
            parts.append(self._phase + self._counts)
        if self._best is not None:
            parts.append(f"best {self._best:.1%}")
        if (left := self._seconds_left()) is not None:
            parts.append(f"{_clock(left)} left")
        return "  ·  ".join(parts)

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        by_deadline = self._deadline - now if self._deadline is not None else None
        finished = self._done - self._first
        by_rate = (now - self._began) / finished * (self._total - self._done) if finished > 0 else None
        known = [left for left in (by_deadline, by_rate) if left is not None]
        return max(0.0, min(known)) if known else None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
