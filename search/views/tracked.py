"""What a search has told so far, and how long it will take, for displays that show it together."""

from __future__ import annotations

import time

from search.board.names import NAME_WIDTH, record_name, shorten
from search.progress import Progress, SearchStatus

STOPPING = "stopping when this trial is done; once more to stop at once"

# Names and messages may come from anywhere: they must not move the cursor or ring a bell.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


class Tracked(Progress):
    """Remembers where the search is.

    Attributes:
        part: the current part of the search.
        total: how many trials the part has.
        done: how many of them are over.
        model: the name of the model that runs.
        doing: its phase.
        steps: how many steps of the phase are done, and how many it has; None if that is unknown.
        status: the state of the search.
        pace: seconds per trial of the part, once one is over.
        since: when the current model began, or else the part, on time.monotonic's clock.
    """

    def __init__(self) -> None:
        self.part = self.model = self.doing = ""
        self.total = self.done = 0
        self.steps: tuple[int, int] | None = None
        self.status = SearchStatus()
        self.pace: float | None = None
        self.since = time.monotonic()
        self._began = self._turn = self.since
        self._first: int | None = None
        self._later = 0.0
        self._deadline: float | None = None

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """Begin a part of the search."""
        self.part, self.total, self._deadline, self._later = what, total, deadline, later
        self.model = self.doing = ""
        self.steps = None
        self.since = self._began = self._turn = time.monotonic()
        self.done, self._first = 0, None

    def trial(self, name: str, done: int) -> None:
        """Note which trial runs."""
        self._first = done if self._first is None else self._first
        self.model, self.done, self.doing, self.steps = shorten(escaped(name), NAME_WIDTH), done, "", None
        self.since = time.monotonic()

    def phase(self, name: str) -> None:
        """Note the phase."""
        self.doing, self.steps = name, None

    def step(self, done: int, total: int) -> None:
        """Note how far the phase is."""
        self.steps = done, total

    def note_end(self, status: SearchStatus) -> None:
        """Note that the trial is over, and the state of the search now."""
        self.done += 1
        self.status = status
        self._turn = time.monotonic()
        self.pace = (self._turn - self._began) / max(1, self.done - (self._first or 0))

    def seconds_left(self) -> float | None:
        """Return the seconds that the search will still take; None if that cannot be known yet."""
        now = time.monotonic()
        by_deadline = self._deadline - now if self._deadline is not None else None
        by_pace = None
        if self.pace is not None:
            # What the running trial has used is subtracted, up to what a trial takes.
            used = min(now - self._turn, self.pace)
            by_pace = self.pace * (self.total - self.done + self._later) - used
        known = [left for left in (by_deadline, by_pace) if left is not None]
        return max(0.0, min(known)) if known else None


def escaped(text: str) -> str:
    """Return a text with its control characters escaped, except line ends and tabs."""
    return text.translate(_CONTROLS)


def ended_line(shown: Tracked, score: float | None, seconds: float, ended: str) -> str:
    """Return the line on a trial that is over."""
    found = f"{score:.1%}" if score is not None else ended
    return f"{shown.part} {shown.done}/{shown.total}: {shown.model}  {found}  {seconds:.1f} s"


def status_text(status: SearchStatus) -> str:
    """Return the state of a search in one line; empty at its beginning."""
    best, parent = status.best, status.best_parent
    found = [f"best {best.search.score:.1%} ({record_name(best)})"] if best else []
    found += [f"best parent {parent.search.score:.1%}"] if parent else []
    counts = {"pruned": status.pruned, "failed": status.failed}
    return ", ".join([*found, *(f"{count} {state}" for state, count in counts.items() if count)])


def clock(seconds: float) -> str:
    """Return a duration as users read it: 1h05m, 2m30s or 12s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
