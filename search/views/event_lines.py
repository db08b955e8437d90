"""A search in JSON lines, for other programs: one object per event. The keys are a contract; see docs/watching.md."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, TextIO

from search.board.names import record_name
from search.progress import SearchStatus
from search.study.record import TrialRecord
from search.views.tracked import STOPPING, Tracked

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard

# Steps of a phase come by the hundred; at most one in this time is an event.
_SECONDS_BETWEEN_STEPS = 1.0


class EventLines(Tracked):
    """Writes an object per event to a stream.

    Args:
        stream: stdout; what it cannot take is lost, and the search goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._next_step = 0.0
        self._is_stopping = False

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """Write that a part of the search begins."""
        super().begin(what, total, deadline, later)
        self._write("begin", part=what, total=total)

    def trial(self, name: str, done: int) -> None:
        """Write that a trial begins."""
        super().trial(name, done)
        self.model = name
        self._write("trial", part=self.part, model=name, done=done, total=self.total)

    def phase(self, name: str) -> None:
        """Write that a phase begins."""
        super().phase(name)
        self._next_step = 0.0
        self._write("phase", part=self.part, model=self.model, phase=name)

    def step(self, done: int, total: int) -> None:
        """Write how far the phase is, now and then and at its end."""
        super().step(done, total)
        if (now := time.monotonic()) >= self._next_step or done == total:
            self._next_step = now + _SECONDS_BETWEEN_STEPS
            self._write("step", part=self.part, model=self.model, phase=self.doing, done=done, total=total)

    def scored(
        self, score: float | None, seconds: float, status: SearchStatus, note: str = "", ended: str = "failed"
    ) -> None:
        """Write what became of a trial, and the state of the search."""
        self.note_end(status)
        self._write(
            "scored", part=self.part, model=self.model, done=self.done, total=self.total, score=score,
            state="complete" if score is not None else ended, seconds=seconds, note=note,
            seconds_left=self.seconds_left(), best=_named(status.best), best_parent=_named(status.best_parent),
            complete=status.complete, pruned=status.pruned, failed=status.failed, ascended=status.ascended,
            workers=len(status.workers), tokens_per_second=status.tokens_per_second, acceptance=status.acceptance,
        )  # fmt: skip

    def say(self, message: str) -> None:
        """Write a message."""
        self._write("message", text=message)

    def stopping(self) -> None:
        """Answer on stderr, past all buffers; the event waits for the next one, because it could land inside a line."""
        self._is_stopping = True
        with contextlib.suppress(OSError):  # nobody is there to read it
            os.write(2, f"{STOPPING}\n".encode())

    def end(self, found: Leaderboard, results: str) -> None:
        """Write how the search, or the confirmation, has ended."""
        verdict = found.verdict
        self._write(
            "end", results=results, verdict=verdict.ruling, sentence=verdict.sentence, best=found.best,
            best_parent=found.best_parent, ended=found.ended, unfinished=found.unfinished,
        )  # fmt: skip

    def _write(self, event: str, **found: object) -> None:
        if self._is_stopping:
            self._is_stopping = False
            self._write("stopping")
        line = json.dumps({"event": event, "time": round(time.time(), 3), **found}, allow_nan=False)
        print(line, file=self._stream, flush=True)


def _named(record: TrialRecord | None) -> dict[str, object] | None:
    return None if record is None else {"model": record_name(record), "score": record.search.score}
