"""Two models side by side, from the reports of `merge-search evaluate --json` or from the records of searches.

Guarantees: only problems that both were scored on are compared. Two records are compared on the report split if both
have a score there. Scores and intervals are those of the leaderboard; if the two weigh problem sets differently, the
weights of the first count for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from evaluation.scoring import Group, Interval, PairedTest, Rate, interval, paired_test, weighted_mean
from search.errors import SearchError
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's results.

    Attributes:
        name: the model's name, as the user wrote it.
        splits: the rates by split and task id; those of a report have no split ("").
        sets: by task id, the name and the weight of the problem's set; empty for a single set.
    """

    name: str
    splits: Mapping[str, Mapping[str, Rate]]
    sets: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    @classmethod
    def of_report(cls, name: str, report: Mapping[str, Any]) -> Self:
        """Return the results in a report given as plain data. Raises KeyError, TypeError, ... if it is not a report."""
        rates = {task: _rate(found) for task, found in report["problems"].items()}
        sets = report["sets"] if report.get("scores") else {}
        of_task = {task: (part, float(own["weight"])) for part, own in sets.items() for task in own["problems"]}
        return cls(name, {"": rates}, of_task)

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
        sets = {split: [part[:2] for part in splits[split].parts for _ in range(part[2])] for split in task_ids}
        return cls(
            name,
            {split: _by_task(found, task_ids[split]) for split, found in rates.items() if found},
            {task: own for split, tasks in task_ids.items() for task, own in zip(tasks, sets[split], strict=False)},
        )

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
        scores: pass@1 of both; with several problem sets the weighted mean of theirs.
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
    own, other = (_groups(rates, common, first.sets) for rates in (mine, theirs))
    return Comparison(
        (first.name, second.name),
        split,
        tuple(common),
        (weighted_mean(own), weighted_mean(other)),
        (interval(own), interval(other)),
        paired_test(mine, theirs),
    )


def _groups(rates: Mapping[str, Rate], tasks: Sequence[str], sets: Mapping[str, tuple[str, float]]) -> Sequence[Group]:
    """Group the rates on some problems by problem set."""
    grouped: dict[tuple[str, float], list[Rate]] = {}
    for task in tasks:
        grouped.setdefault(sets.get(task, ("", 1.0)), []).append(rates[task])
    return [Group(weight, own) for (_, weight), own in grouped.items()]


def _rate(found: Mapping[str, Any]) -> Rate:
    samples = found.get("samples", [found])
    return sum(bool(sample["passed"]) for sample in samples) / len(samples)


def _by_task(rates: Mapping[str, Rate], task_ids: Sequence[str]) -> dict[str, Rate]:
    return {task_ids[int(place)]: rate for place, rate in rates.items()}
