"""A search on a terminal: a panel that is redrawn a few times per second, below the lines of trials that are over.

Guarantees: the panel fits the terminal, however small, and follows its size. A terminal whose encoding lacks block
characters gets ASCII. Drawing reads only what was told. The thread that tells also reads the store, but at most every
two seconds.
"""

from __future__ import annotations

import contextlib
import locale
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.box import ASCII, ROUNDED
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from search.board.names import LABEL_WIDTH, NAME_WIDTH, record_name, shorten
from search.errors import SearchError
from search.progress import SearchStatus, WorkerStatus
from search.study.record import TrialRecord
from search.views.reflowed import ReflowedLive
from search.views.sparkline import NO_NUMBER, best_of_each, sparkline
from search.views.tracked import Tracked, clock, ended_line, escaped

REFRESHES_PER_SECOND = 4
_SECONDS_BETWEEN_READS = 2.0
# A frame costs two lines and four columns, which a smaller terminal cannot spare.
_FRAMED_WIDTH, _FRAMED_HEIGHT = 58, 16
# Ctrl-C is echoed as ^C after the last row; if it wrapped into another row, the rows above would not all be erased.
_ECHO = 2
_LABEL, _NARROW_LABEL, _NARROW = 13, 9, 60
_BAR = 60
# The priority of the workers' rows: the fewer lines there are, the lower the numbers of the rows that stay.
_OF_WORKERS = 5
_WORKER_NAME = 8
_IN_ASCII = str.maketrans({"·": "-", "…": "~", "━": "#", "─": "-"})
_STOPPING = "stopping; once more: at once"


class LivePanel(Tracked):
    """Shows on a terminal what runs, and the state of the search.

    Args:
        stream: the terminal.
        blocks: whether it has block characters; by default its encoding decides.
    """

    def __init__(self, stream: TextIO, blocks: bool | None = None) -> None:
        super().__init__()
        # Whatever the environment says: the caller has checked that this is a terminal.
        self.console = Console(file=stream, force_terminal=True, highlight=False)
        self._blocks = _has_blocks(stream) if blocks is None else blocks
        self._is_stopping = False
        self._status: Callable[[], SearchStatus] | None = None
        self._next_read = 0.0
        self._live = ReflowedLive(self.panel, self.console, REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def watch(self, status: Callable[[], SearchStatus]) -> None:
        """Read the state of the search now and then."""
        self._status = status

    def trial(self, name: str, done: int) -> None:
        """Show which trial runs."""
        super().trial(name, done)
        self._read()

    def step(self, done: int, total: int) -> None:
        """Show how far the phase is."""
        super().step(done, total)
        self._read()

    def scored(
        self, score: float | None, seconds: float, status: SearchStatus, note: str = "", ended: str = "failed"
    ) -> None:
        """Print a line for a trial that is over, above the panel."""
        self.note_end(status)
        self.say("  ·  ".join([ended_line(self, score, seconds, ended), *([note] if note else [])]))

    def say(self, message: str) -> None:
        """Print a message above the panel."""
        self.console.print(Text(self._shown(message)), soft_wrap=True)

    def stopping(self) -> None:
        """Say that the search will stop, with the next drawing."""
        self._is_stopping = True

    def panel(self) -> RenderableType:
        """Return the panel, fitted to the terminal's present size."""
        columns, height = self.console.size
        width = max(1, columns - _ECHO)
        is_framed = width >= _FRAMED_WIDTH and height >= _FRAMED_HEIGHT
        inner = width - 4 if is_framed else width
        # One line stays free for what is printed above.
        rows = self._rows(inner, max(1, height - (3 if is_framed else 1)))
        for row in rows:
            row.plain = self._shown(row.plain)
            row.truncate(inner, overflow="ellipsis" if self._blocks else "crop")
            row.no_wrap = True
        content = Group(*rows)
        return (
            Panel(content, box=ROUNDED if self._blocks else ASCII, border_style="dim", width=width)
            if is_framed
            else content
        )

    def _read(self) -> None:
        if self._status and time.monotonic() >= self._next_read:
            with contextlib.suppress(SearchError):  # scoring will raise it, too
                self.status = self._status()
            self._next_read = time.monotonic() + _SECONDS_BETWEEN_READS

    def _shown(self, text: str) -> str:
        """Return a text as the terminal can show it, with the same width."""
        text = escaped(text)
        return text if self._blocks else text.translate(_IN_ASCII).encode("ascii", "replace").decode()

    def _rows(self, width: int, most: int) -> list[Text]:
        """Return at most `most` rows: those that say most."""
        label = _LABEL if width >= _NARROW else _NARROW_LABEL
        status, room = self.status, width - label
        notice = Text(_STOPPING, "bold yellow")
        rows: list[tuple[int, str, Text | None]] = [
            (0, "", notice if self._is_stopping else None),
            (1, self.part, self._part_row(room)),
            (0, "now", self._now_row(room)),
            (2, "best", _best_row(status)),
            (3, "best parent" if width >= _NARROW else "parent", _parent_row(status)),
            (4, "history", self._history_row(room)),
            (7, "trials", _trials_row(status)),
            (6, "speed", self._speed_row(room)),
        ]
        known = [(priority, name, row) for priority, name, row in rows if row is not None]
        if len(status.workers) > 1 and (left := most - sum(priority < _OF_WORKERS for priority, _, _ in known)) > 0:
            workers = self._worker_rows(room, left)
            known += ((_OF_WORKERS, "" if place else "workers", row) for place, row in enumerate(workers))
        kept = sorted(range(len(known)), key=lambda place: known[place][0])[:most]
        return [_labelled(known[place][1], known[place][2], label) for place in sorted(kept)]

    def _part_row(self, room: int) -> Text:
        left = self.seconds_left()
        time_left = f"{clock(left)} left" if left and round(left) else ""
        if not self.model:
            return Text(time_left)
        return _with_bar("", self.done, self.total, f"{_count(self.done, self.total)}  {time_left}".rstrip(), room)

    def _now_row(self, room: int) -> Text | None:
        used = clock(time.monotonic() - self.since)
        counts = _count(*self.steps) if self.steps else ""
        others = [part for part in (self.doing, counts, used) if part]
        name = shorten(self.model, max(8, room - sum(cell_len(part) + 2 for part in others)))
        what = "  ".join(part for part in (name, self.doing) if part)
        if not what:
            return None
        return _with_bar(what, *self.steps, f"{counts}  {used}", room) if self.steps else Text(f"{what}  {used}")

    def _history_row(self, room: int) -> Text | None:
        status = self.status
        known = [score for score in status.history if score is not None]
        if not status.history:
            return None
        parent = status.best_parent.search.score if status.best_parent else None
        low, high = min([*known, parent or 1.0], default=0.0), max([*known, parent or 0.0], default=0.0)
        ends = dict.fromkeys(f"{score:.1%}" for score in (min(known), max(known))) if known else {}
        text = f"  {' to '.join(ends)}" if ends else ""
        values, size = best_of_each(status.history, min(_BAR, room - len(text)))
        if size > 1 and room > _BAR / 2:
            text += f", best of each {size}"
            values, size = best_of_each(status.history, min(_BAR, room - len(text)))
        row = Text()
        for value, sign in zip(values, sparkline(values, low, high, blocks=self._blocks), strict=True):
            is_better = value is not None and parent is not None and value > parent
            row.append(sign, "red" if sign == NO_NUMBER else "green" if is_better else "dim")
        return row.append(text)

    def _speed_row(self, room: int) -> Text | None:
        rate, acceptance = self.status.tokens_per_second, self.status.acceptance
        found = [f"{_seconds(self.pace)} per trial"] if self.pace is not None else []
        found += [f"{rate:,.0f} tokens/s"] if rate is not None else []
        found += [f"{acceptance:.0%} of drafts accepted"] if acceptance is not None else []
        while len(found) > 1 and len("  ·  ".join(found)) > room:
            found.pop()
        return Text("  ·  ".join(found)) if found else None

    def _worker_rows(self, room: int, most: int) -> list[Text]:
        """Return a row per worker, this one first, but at most `most` rows."""
        ordered = sorted(self.status.workers, key=lambda worker: (not worker.is_own, worker.name))
        shown = ordered if len(ordered) <= most else ordered[: most - 1]
        # What the worker's name and the time leave for the model's name.
        widest = min(LABEL_WIDTH, max(8, room - 2 * _WORKER_NAME))
        cells = [self._worker_cells(worker, widest) for worker in shown]
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        while len(widths) > 1 and sum(widths) + 2 * len(widths) - 2 > room:  # the last column says least
            widths.pop()
        rows = []
        for row in cells:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=False))
            rows.append(Text("  ".join(padded).rstrip()))
        return [*rows, Text(f"and {left} more")] if (left := len(ordered) - len(shown)) else rows

    def _worker_cells(self, worker: WorkerStatus, widest: int) -> list[str]:
        devices = ", ".join(worker.place.devices) if worker.place else ""
        place = f"{devices} on {shorten(worker.place.host, LABEL_WIDTH)}" if worker.place else ""
        last = worker.last
        rate = f"{last.tokens / last.seconds['generation']:,.0f} tokens/s" if last else ""
        if worker.is_own:  # this process knows better than the store
            return ["this one", shorten(self.model, widest), clock(time.monotonic() - self.since), rate, place]
        since = clock(max(0.0, time.time() - worker.since)) if worker.since is not None else ""
        model = _short(worker.record) if worker.record else "between models"
        return [worker.name[:_WORKER_NAME], shorten(model, widest), since, rate, place]


def _best_row(status: SearchStatus) -> Text | None:
    best, parent = status.best, status.best_parent
    if best is None or best.search.score is None:
        return None
    row = _score(best).append(f"  {record_name(best)}")
    if parent and parent.search.score is not None:
        more = 100 * (best.search.score - parent.search.score)
        row.append(f"  {more:+.1f} points", "green" if more > 0 else "yellow")
    return row.append(_scores(best))


def _parent_row(status: SearchStatus) -> Text | None:
    parent = status.best_parent
    return _score(parent).append(f"  {_short(parent)}").append(_scores(parent)) if parent else None


def _score(record: TrialRecord) -> Text:
    return Text().append(f"{record.search.score:.1%}", "bold")


def _scores(record: TrialRecord) -> str:
    """Return the score of each objective, if there are several."""
    each = ", ".join(f"{score:.1%}" for score in record.search.scores)
    return f"  ({each})" if len(record.search.scores) > 1 else ""


def _trials_row(status: SearchStatus) -> Text | None:
    counts = {"pruned": status.pruned, "failed": status.failed}
    if not (status.complete or any(counts.values())):
        return None
    row = Text(f"{status.complete} scored")
    for state, count in counts.items():
        if count:
            row.append(", ").append(f"{count} {state}", "red" if state == "failed" else "")
    return row.append(f"  ·  {status.ascended} by the ascent" if status.ascended else "")


def _short(record: TrialRecord) -> str:
    """Return the name of a trial, or the end of the reference of a parent."""
    return shorten(record_name(record).rstrip("/").rpartition("/")[2], NAME_WIDTH)


def _with_bar(before: str, done: int, total: int, after: str, room: int) -> Text:
    """Return a text, a bar and another text, together at most `room` wide; no bar if there is no room for one."""
    between = 2 if before else 0
    width = min(_BAR, room - cell_len(before) - between - cell_len(after) - 2)
    if width < 4:
        return Text(f"{before}  {after}" if before else after)
    full = round(width * min(1.0, done / total)) if total else 0
    row = Text(before + " " * between)
    return row.append("━" * full, "cyan").append("─" * (width - full), "dim").append(f"  {after}")


def _count(done: int, total: int) -> str:
    """Return how much is done, always in the same width, so that the text beside it does not move."""
    return f"{done:>{len(str(total))}}/{total}"


def _labelled(name: str, row: Text, width: int) -> Text:
    shown = shorten(name, max(width - 1, cell_len(name) if not row.plain else 0))
    return Text(shown + " " * max(1, width - cell_len(shown)), "dim").append_text(row)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def _has_blocks(stream: TextIO) -> bool:
    """Whether a terminal has block characters, by the encoding of its stream and that of the locale."""
    try:
        for encoding in (getattr(stream, "encoding", None) or "utf-8", locale.getencoding()):
            "▁━…".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
