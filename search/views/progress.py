"""What a search tells while it runs, and how it stands meanwhile.

`Progress` is what a search tells; displays override what they show. `SearchStatus` is a function of records.
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
    """What a worker does.

    Attributes:
        name: of the worker.
        place: where it is, if that is known.
        record: of the model that it is at, if it is at one.
        since: when it began with it, in seconds since the epoch.
        last: the scoring that it ended last with completions of its own, whose tokens say how fast it generates.
        is_own: whether it is the one that tells.
    """

    name: str
    place: Workplace | None = None
    record: TrialRecord | None = None
    since: float | None = None
    last: Scoring | None = None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class SearchStatus:
    """How a search stands.

    Attributes:
        best: the best trial so far, if any has a score.
        best_parent: the best parent so far, if any has a score.
        complete: how many trials have a score.
        pruned: how many were pruned.
        failed: how many failed.
        ascended: how many trials are of the ascent.
        history: the score of each trial that is over, by number; None for one without.
        workers: those that live, by name.
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
        """Return how a search stands.

        Args:
            records: of the search.
            alive: where the workers are that live, by name.
            own: the name of the worker that tells.
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
        """How many tokens the workers that live generate together, by the model that each scored last."""
        last = [it.last for it in self.workers if it.last]
        return sum(each.tokens / each.seconds[_GENERATION] for each in last) if last else None

    @property
    def acceptance(self) -> float | None:
        """The fraction of guessed tokens that held in these models; None where nothing was guessed."""
        last = [it.last for it in self.workers if it.last]
        guessed = sum(each.guessed for each in last)
        return sum(each.accepted for each in last) / guessed if guessed else None


class Progress:
    """What a search tells while it runs. This one tells nobody; displays override what they show.

    Use as a context manager.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display."""

    def watch(self, status: Callable[[], SearchStatus]) -> None:
        """The search runs; what is told next may call `status` to read how it stands, or raise SearchError."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:
        """A part of the search begins, or goes on.

        Args:
            what: the part.
            total: how many trials it has.
            deadline: when its last trial begins at the latest, on time.monotonic's clock.
            later: how long the parts after it will take, in trials of this one.
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
            score: of the trial, if it has one.
            seconds: that it took.
            status: how the search stands now.
            note: what else a person should know of it.
            ended: how it ended without a score.
        """

    def say(self, message: str) -> None:
        """Something happened that a person should know."""

    def stopping(self) -> None:
        """The search was asked to stop. A signal handler calls this, so it must not wait for anything."""

    def end(self, found: Leaderboard, results: str) -> None:
        """The search, or the confirmation, has ended, or its worker has.

        Args:
            found: what it has found.
            results: the folder.
        """

    def count(self, what: str, phase: str, done: int, total: int) -> None:
        """Something other than a trial has done `done` steps of `total`; with the first step it begins."""
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
