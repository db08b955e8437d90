"""The leaderboard: every trial and every reference model, with the evidence for its score.

Guarantees: a function of records, which can be read while the search runs. Only the search split chooses the best, so
that its score on the report split is unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from evaluation.scoring import Interval, PairedTest, Rate, interval, paired_test
from search.board.names import record_name
from search.board.ranking import best, best_parent, front, optimism, ranked
from search.board.round_looks import confirmation_ended
from search.board.search_verdict import SearchVerdict, better_finalists, objectives, rounds_of, search_verdict
from search.study.looks import Looks
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord

_COMPARED: tuple[SplitName, ...] = ("search", "report")


def shown_by_seed(scores: Sequence[float]) -> str:
    """Return in words the scores of a merge with random masks under several seeds, the search's own seed first."""
    each = ", ".join(f"{score:.1%}" for score in scores)
    return (
        f"{fmean(scores):.1%} on average under {len(scores)} random seeds in the first round ({each}), standard "
        f"deviation {100 * stdev(scores):.1f} points"
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard: a record, and the evidence for its scores.

    Attributes:
        record: the model's record.
        name: the parent's reference, ``average``, or ``trial N``.
        search_scores, report_scores: with several problem sets, pass@1 of each set on either split.
        report_interval: the 95% interval of the score on the report split, which finalists and reference models have
            (Wilson's interval, with one sample per problem and one problem set).
        won, lost: how many problems only it, or only the best parent, passes (with several samples: passes more often),
            on the split that `compared_on` names.
        p_value: the p-value of the exact McNemar test against the best parent, on the report split.
        on_front: with several objectives, whether it is on the Pareto front; None with one, or for a reference model.
    """

    record: TrialRecord
    name: str
    search_scores: Mapping[str, float]
    report_scores: Mapping[str, float]
    report_interval: Interval | None
    won: int
    lost: int
    p_value: float | None
    compared_on: SplitName | None
    on_front: bool | None


@dataclass(frozen=True)
class Leaderboard:
    """The rows of a search, best first.

    Attributes:
        study: the name of the search.
        verdict: whether a trial is proven to be better than every parent.
        records: the records that are over, by merit; see `search.board.ranking.merit`.
        splits: how the outcomes on each split are read.
        best: the number of the best trial, or None.
        best_parent: the name of the parent that the others are compared with, or None.
        optimism: how much higher the best trial scores on the search split than on the report split, if it has both.
        unfinished: a sentence on the remaining work that no worker is doing; set only if a search has just ended.
        ended: the rule by which the search ended, in words; set only if it has just ended.
        is_promising: whether more evidence may prove a trial: none is proven, the best is better than every parent, and
            no confirmation has begun.
        is_confirming: whether a confirmation has begun and not ended.
    """

    study: str
    verdict: SearchVerdict
    records: tuple[TrialRecord, ...] = ()
    splits: Mapping[SplitName, Split] = field(default_factory=dict)
    best: int | None = None
    best_parent: str | None = None
    optimism: float | None = None
    unfinished: str = ""
    ended: str = ""
    is_promising: bool = False
    is_confirming: bool = False

    @classmethod
    def of(
        cls, study: str, records: Sequence[TrialRecord], splits: Mapping[SplitName, Split], looks: Looks
    ) -> Leaderboard:
        """Return the leaderboard of a search.

        Args:
            study: its name.
            records: its records; those that are not over have no row.
            splits: how the outcomes on each split are read.
            looks: the looks at the report split.
        """
        winner, reference = best(records), best_parent(records)
        first = [record for record in (winner, reference) if record]
        verdict = search_verdict(records, splits, looks)
        is_open = verdict.ruling == "not proven" and looks.left > 0 and objectives(records) == 1
        return cls(
            study=study,
            verdict=verdict,
            records=tuple(ranked(record for record in records if record.is_over)),
            splits=splits,
            best=winner.number if winner else None,
            best_parent=record_name(reference) if reference else None,
            optimism=optimism(winner) if winner else None,
            is_promising=is_open and "confirm" not in splits and bool(better_finalists(first, 1)),
            is_confirming="confirm" in splits and not confirmation_ended(records, splits, looks),
        )

    @classmethod
    def open(cls, path: str | Path) -> Leaderboard:
        """Read the leaderboard of a results folder by its path. Raises SearchError if it holds no search."""
        from search.results import ResultsFolder

        return cls.of(*ResultsFolder.open(Path(path)).read())

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all records."""
        return self.top(None)

    @property
    def confirmed_on(self) -> str:
        """The problems and rounds of a confirmation, if it has had a round: ``650 problems in 4 rounds``."""
        had = [record.confirm.outcomes for record in self.records if record.confirm and record.confirm.outcomes]
        if not had:
            return ""
        how = self.splits["confirm"]
        rounds = min(len(outcomes) // how.problems for outcomes in had)
        return f"{rounds_of(replace(how, samples=rounds))}{' so far' if self.is_confirming else ''}"

    @property
    def best_row(self) -> Row | None:
        """The row of the best trial, if there is one."""
        found = next((record for record in self.trials if record.number == self.best), None)
        return self.row(found) if found else None

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """The trials among the records."""
        return [record for record in self.records if record.kind == "trial"]

    @cached_property
    def references(self) -> list[TrialRecord]:
        """The reference models among the records."""
        return [record for record in self.records if record.kind != "trial"]

    def top(self, count: int | None) -> tuple[Row, ...]:
        """Return the rows of the reference models and of the best `count` trials, by default all."""
        return tuple(map(self.row, ranked([*self.references, *self.trials[:count]])))

    def row(self, record: TrialRecord) -> Row:
        """Return a record with the evidence for its scores."""
        report, (test, compared_on) = record.on("report"), self._versus(record)
        of_report = self.splits["report"]
        return Row(
            record=record,
            name=record_name(record),
            search_scores=self.splits["search"].scores(record.search.outcomes),
            report_scores=of_report.scores(report.outcomes),
            report_interval=interval(of_report.groups(report.outcomes)) if report.outcomes else None,
            won=len(test.won),
            lost=len(test.lost),
            p_value=test.p_value if compared_on == "report" else None,
            compared_on=compared_on,
            on_front=record.number in self._front if self._front and record.kind == "trial" else None,
        )

    def _versus(self, record: TrialRecord) -> tuple[PairedTest, SplitName | None]:
        """Compare a model with the best parent: on the report split if both have outcomes there, or else on the other.

        A model without outcomes is not compared, nor is the best parent with itself.
        """
        known = self._of_best_parent
        if not known or record.search.score is None or (record.kind, record.name) == ("parent", self.best_parent):
            return PairedTest((), (), 1.0), None
        split: SplitName = "report" if known["report"] and record.on("report").outcomes else "search"
        return paired_test(self.splits[split].rates(record.on(split).outcomes), known[split]), split

    @cached_property
    def _of_best_parent(self) -> Mapping[SplitName, Mapping[str, Rate]]:
        """The rates of the best parent on each split; empty if there is no such parent."""
        found = best_parent(self.references)
        if not found:
            return {}
        return {split: self.splits[split].rates(found.on(split).outcomes) for split in _COMPARED}

    @cached_property
    def _front(self) -> frozenset[int]:
        return front(self.records)
