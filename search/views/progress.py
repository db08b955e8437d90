"""What a search tells while it runs, and how it stands meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from search.board.ranking import best, best_parent
from search.study.record import TrialRecord


@dataclass(frozen=True, slots=True)
class SearchStatus:
    """How a search stands.

    Attributes:
        best: the best trial so far, if any has a score.
        best_parent: the best parent so far, if any has a score.
        complete: how many trials have a score.
        pruned: how many were pruned.
        failed: how many failed.
    """

    best: TrialRecord | None = None
    best_parent: TrialRecord | None = None
    complete: int = 0
    pruned: int = 0
    failed: int = 0

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Self:
        """Return how the search stands whose records these are."""
        states = Counter(record.search.state for record in records if record.kind == "trial")
        ended = (states[state] for state in ("complete", "pruned", "failed"))
        return cls(best(records), best_parent(records), *ended)


class Progress:
    """What a search tells while it runs. This one tells nobody; displays override what they show."""

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

    def count(self, what: str, phase: str, done: int, total: int) -> None:
        """Something other than a trial has done `done` steps of `total`; with the first step it begins."""
        if done == 1:
            self.begin(what, 1)
            self.phase(phase)
        self.step(done, total)
