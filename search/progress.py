"""What a search tells while it runs, and its state.

`Progress` hears what a search tells; displays override what they show. `SearchStatus` is a function of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from search.board.ranking import best, best_parent
from search.study.record import ASCENT, Scoring, TrialRecord
from search.study.store import Workplace

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker is doing.

    Attributes:
        name: the worker's name.
        place: where it is, if that is known.
        record: the record of the model that it is working on, if any.
        since: when it began that model, in seconds since the epoch.
        last: the last scoring that it ended with completions of its own, which says how fast it generates.
        is_own: whether it is the worker of this process.
    """

    name: str
    place: Workplace | None = None
    record: TrialRecord | None = None
    since: float | None = None
    last: Scoring | None = None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class SearchStatus:
    """The state of a search.

    Attributes:
        best: the best trial so far, if any has a score.
        best_parent: the best parent so far, if any has a score.
        complete: how many trials have a score.
        pruned: how many trials were pruned.
        failed: how many trials failed.
        ascended: how many trials the ascent proposed.
        history: the score of each trial that is over, by number; None for a trial without one.
        workers: the live workers, by name.
    """

    best: TrialRecord | None = None
    best_parent: TrialRecord | None = None
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    ascended: int = 0
    history: tuple[float | None, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()

    @classmethod
    def of(cls, records: Sequence[TrialRecord], alive: Mapping[str, Workplace] | None = None, own: str = "") -> Self:
        """Return the state of a search.

        Args:
            records: the search's records.
            alive: where the live workers are, by name.
            own: the name of this process's worker.
        """
        over = sorted((it for it in records if it.kind == "trial" and it.is_over), key=attrgetter("number"))
        states = Counter(record.search.state for record in over)
        return cls(
            best(records),
            best_parent(records),
            complete=states["complete"],
            pruned=states["pruned"],
            failed=states["failed"],
            ascended=sum(record.proposed_by == ASCENT for record in over),
            history=tuple(record.search.score for record in over),
            workers=_workers(records, alive or {}, own),
        )

    @property
    def tokens_per_second(self) -> float | None:
        """The tokens per second that the live workers generate together, by the model that each scored last."""
        last = [it.last for it in self.workers if it.last]
        return sum(each.tokens / each.seconds[_GENERATION] for each in last) if last else None

    @property
    def acceptance(self) -> float | None:
        """The fraction of guessed tokens that these models accepted; None if nothing was guessed."""
        last = [it.last for it in self.workers if it.last]
        guessed = sum(each.guessed for each in last)
        return sum(each.accepted for each in last) / guessed if guessed else None


class Progress:
    """Hears what a search tells while it runs. This one shows nothing; displays override what they show.

    Use as a context manager.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display."""

    def watch(self, status: Callable[[], SearchStatus]) -> None:
        """The search runs; from now on `status` returns its state, or raises SearchError."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """A part of the search begins or continues.

        Args:
            what: the part.
            total: how many trials it has.
            deadline: the latest time for a trial to begin, on time.monotonic's clock.
            later: how long the parts after it will take, counted in trials of this part.
        """

    def trial(self, name: str, done: int) -> None:
        """A trial begins; `done` trials are over."""

    def phase(self, name: str) -> None:
        """The current trial enters a phase."""

    def step(self, done: int, total: int) -> None:
        """The current phase has done `done` steps of `total`."""

    def scored(
        self, score: float | None, seconds: float, status: SearchStatus, note: str = "", ended: str = "failed"
    ) -> None:
        """The current trial is over.

        Args:
            score: the trial's score, if it has one.
            seconds: the seconds that it took.
            status: the state of the search now.
            note: a further note for the user.
            ended: how it ended, if it has no score.
        """

    def say(self, message: str) -> None:
        """Something happened that the user should know."""

    def stopping(self) -> None:
        """The search was asked to stop. A signal handler calls this, so it must not wait for anything."""

    def end(self, found: Leaderboard, results: str) -> None:
        """The search, or the confirmation, has ended, or its worker has.

        Args:
            found: its leaderboard.
            results: its results folder.
        """

    def count(self, what: str, phase: str, done: int, total: int) -> None:
        """Something other than a trial has done `done` steps of `total`; the first step also begins it."""
        if done == 1:
            self.begin(what, 1)
            self.phase(phase)
        self.step(done, total)


_GENERATION = "generation"


def _workers(records: Sequence[TrialRecord], alive: Mapping[str, Workplace], own: str) -> tuple[WorkerStatus, ...]:
    at: dict[str, tuple[TrialRecord, float | None]] = {}
    last: dict[str, Scoring] = {}
    for record in records if alive else ():
        for scoring in (record.search, record.report, record.confirm):
            if scoring is None or scoring.worker not in alive:
                continue
            if scoring.state == "running":
                at[scoring.worker] = record, scoring.started
            elif scoring.seconds.get(_GENERATION) and _began(scoring) >= _began(last.get(scoring.worker)):
                last[scoring.worker] = scoring
    found = []
    for name in sorted(alive):
        model, since = at.get(name, (None, None))
        found.append(WorkerStatus(name, alive[name], model, since, last.get(name), name == own))
    return tuple(found)


def _began(scoring: Scoring | None) -> float:
    return (scoring and scoring.started) or 0.0
