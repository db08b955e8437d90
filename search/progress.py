"""What a person sees while a search runs: live lines on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

_STOPPING = "stopping when this trial is done; once more to stop at once"
_JOINT = "  ·  "
NAME_WIDTH = 36
"""What a name may take of a line."""
# Where nothing is live, a phase that takes longer than this says how far it is.
_QUIET_SECONDS = 30.0


class Progress(Protocol):
    """What a search tells while it runs."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """A part of the search begins, or goes on, of so many trials.

        Args:
            what: the part.
            total: how many trials it has.
            deadline: when the last trial begins, at the latest, on time.monotonic's clock.
            later: how many trials' time the parts after it will take.
        """

    def trial(self, name: str, done: int) -> None:
        """A trial begins; so many are done."""

    def phase(self, name: str) -> None:
        """The current trial enters a phase."""

    def step(self, done: int, total: int) -> None:
        """So much of the current phase is done."""

    def scored(
        self, score: float | None, seconds: float, standing: str = "", note: str = "", ended: str = "failed"
    ) -> None:
        """The current trial is over: its score, or None and how it ended instead; and how the search stands now."""

    def say(self, message: str) -> None:
        """Something happened that a person should know."""

    def stopping(self) -> None:
        """The search was asked to stop. Called by a signal handler, so it must not wait for anything."""


class Silent:
    """Tells nobody; for use from Python."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """Do nothing."""

    def trial(self, name: str, done: int) -> None:
        """Do nothing."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def scored(
        self, score: float | None, seconds: float, standing: str = "", note: str = "", ended: str = "failed"
    ) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Do nothing."""


def count(progress: Progress, what: str, phase: str, done: int, total: int) -> None:
    """Tell how far something is that is no trial; when the first of it is done, that it has begun."""
    if done == 1:
        progress.begin(what, 1)
        progress.phase(phase)
    progress.step(done, total)


class Terminal:
    """What runs and how the search stands, live, where stderr is a terminal; where it is not, plain lines.

    Either way a trial that is over leaves a line; without a terminal, so does a phase that takes long.

    Use as a context manager.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._what = self._name = self._phase = self._counts = self._standing = self._notice = ""
        self._total = self._done = 0
        self._first: int | None = None
        self._later = 0.0
        self._pace: float | None = None  # seconds a trial
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
        self, score: float | None, seconds: float, standing: str = "", note: str = "", ended: str = "failed"
    ) -> None:
        """Print a line for a trial that is over."""
        self._done += 1
        self._standing = standing
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
        return [*time_left, *([self._standing] if self._standing else [])]

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


def shorten(name: str, width: int) -> str:
    """Return a name of at most that width: its begin and its end, which tell fine-tunes of one model apart."""
    if cell_len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{_fitting(name, width - 1 - end)}…{_fitting(name[::-1], end)[::-1]}"


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name at most that wide, and no two alike: where their ends do not tell, what differs is shown."""
    every = dict.fromkeys(names)
    short = {name: shorten(name, width) for name in every}
    for alike in [[each for each in every if short[each] == found] for found in set(short.values())]:
        if len(alike) > 1:
            short |= {name: _difference(name, alike, width) for name in alike}
    if len(set(short.values())) == len(short):
        return short
    return {name: f"{place}:{shorten(name, width - len(f'{place}:'))}" for place, name in enumerate(every, start=1)}


def _difference(name: str, alike: Sequence[str], width: int) -> str:
    """Return the part of a name in which it differs from those that are alike at both ends, and what is before it."""
    begin = _common(alike)
    end = len(name) - _common([each[begin:][::-1] for each in alike])
    before = _fitting(name[:begin][::-1], max(width - 2 - cell_len(name[begin:end]), 0))[::-1]
    return f"…{before}{_fitting(name[begin:end], width - 2)}…"


def _common(texts: Sequence[str]) -> int:
    """Return how many signs all the texts have in common at their begin."""
    places = enumerate(zip(*texts, strict=False))
    return next((place for place, signs in places if len(set(signs)) > 1), min(map(len, texts)))


def _fitting(text: str, width: int) -> str:
    """Return as much of a text as is at most that wide; a sign may be two columns wide, or none."""
    return next(text[:length] for length in range(len(text), -1, -1) if cell_len(text[:length]) <= width)


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
