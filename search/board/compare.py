"""Two models side by side, from the reports of `merge-search evaluate --json` or from the records of searches.

Guarantees: only problems that both were scored on are compared. Two records are compared on the report split if both
have a score there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from evaluation.scoring import Group, Interval, PairedTest, Rate, interval, paired_test
from search.errors import SearchError
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's results, by split and task id; a report's have no split ("")."""

    name: str
    splits: Mapping[str, Mapping[str, Rate]]

    @classmethod
    def of_report(cls, name: str, report: Mapping[str, Any]) -> Self:
        """Return the results in a report given as plain data. Raises KeyError, TypeError, ... if it is not a report."""
        return cls(name, {"": {task: _rate(found) for task, found in report["problems"].items()}})

    @classmethod
    def of_record(
        cls,
        name: str,
        record: TrialRecord,
        splits: Mapping[SplitName, Split],
        task_ids: Mapping[SplitName, Sequence[str]],
    ) -> Self:
        """Return the results in a record.

        Args:
            name: the model's name, as the user wrote it.
            record: the model's record.
            splits: how the outcomes on each split are read.
            task_ids: the problems of each split, in order.
        """
        rates = {split: splits[split].rates(record.on(split).outcomes) for split in task_ids}
        return cls(name, {split: _by_task(found, task_ids[split]) for split, found in rates.items() if found})

    @property
    def every(self) -> Mapping[str, Rate]:
        """The results on all splits together."""
        return {task: rate for rates in self.splits.values() for task, rate in rates.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of two models on the same problems.

    Attributes:
        names: both names.
        split: ``report`` or ``search``, if all problems are from that split; otherwise empty.
        tasks: the ids of the problems, in order.
        scores: pass@1 of both.
        intervals: their 95% intervals.
        test: the paired test of the first against the second.
    """

    names: tuple[str, str]
    split: str
    tasks: tuple[str, ...]
    scores: tuple[float, float]
    intervals: tuple[Interval, Interval]
    test: PairedTest

    @property
    def problems(self) -> int:
        """The number of problems."""
        return len(self.tasks)


def compare(first: Scored, second: Scored) -> Comparison:
    """Compare two models. Raises SearchError if no problem is common to them."""
    both = (first, second)
    split = next((name for name in ("report", "search") if all(name in each.splits for each in both)), "")
    mine, theirs = (each.splits[split] if split else each.every for each in both)
    common = [task for task in mine if task in theirs]
    if not common:
        raise SearchError(f"{first.name} and {second.name} have no problem in common")
    groups = [Group(1.0, [rates[task] for task in common]) for rates in (mine, theirs)]
    return Comparison(
        (first.name, second.name),
        split,
        tuple(common),
        (groups[0].mean, groups[1].mean),
        (interval(groups[:1]), interval(groups[1:])),
        paired_test(mine, theirs),
    )


def _rate(found: Mapping[str, Any]) -> Rate:
    samples = found.get("samples", [found])
    return sum(bool(sample["passed"]) for sample in samples) / len(samples)


def _by_task(rates: Mapping[str, Rate], task_ids: Sequence[str]) -> dict[str, Rate]:
    return {task_ids[int(place)]: rate for place, rate in rates.items()}
