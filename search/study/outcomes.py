"""Encoded outcomes: one character per completion, in the split's order, so that 100,000 trials fit in memory.

Guarantees: within a search the n-th character belongs to the same problem in every record, because the search stores
its splits and refuses to continue with others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from evaluation import Status
from evaluation.scoring import Group, Rate

if TYPE_CHECKING:  # a leaderboard is read without waiting for torch
    from evaluation import ProblemSet, Report

CODES: Mapping[Status, str] = {status: status[0] for status in get_args(Status)}
"""The character of each status."""
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Split:
    """How the encoded outcomes of a split are read.

    Attributes:
        samples: the samples per problem, whose characters follow each other; in a confirmation, the number of rounds
            (see `of_rounds`).
        parts: name, weight and number of problems of each set, in order; empty for a single set.
        problems: the number of problems in all; 0 if there is no such split.
    """

    samples: int = 1
    parts: tuple[tuple[str, float, int], ...] = ()
    problems: int = 0

    @classmethod
    def of(cls, problems: ProblemSet, samples: int) -> Split:
        """Return the split of some problems with `samples` samples each."""
        parts = tuple((part.name, part.weight, len(part.task_ids)) for part in problems.parts)
        return cls(samples, parts, len(problems))

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Split:
        """Return the split with these fields, as read from JSON."""
        parts = tuple((name, weight, count) for name, weight, count in plain["parts"])
        return cls(plain["samples"], parts, plain["problems"])

    @property
    def weights(self) -> dict[str, float] | None:
        """The weight of each problem in the score, by its place; None if all weights are equal."""
        if not self.parts:
            return None
        each = [weight / count for _, weight, count in self.parts for _ in range(count)]
        return {str(place): weight for place, weight in enumerate(each)}

    def of_rounds(self, outcomes: str) -> str:
        """Reorder outcomes that are given round by round into the order in which this split reads them.

        Return as many rounds as the split has samples, or "" if some of these are missing.
        """
        end = self.samples * self.problems
        if len(outcomes) < end:
            return ""
        return "".join(outcomes[place : end : self.problems] for place in range(self.problems))

    def rates(self, outcomes: str) -> dict[str, Rate]:
        """Return the fraction of samples that passed for each problem with outcomes, by its place in the split."""
        starts = range(0, len(outcomes), self.samples)
        own = (outcomes[start : start + self.samples] for start in starts)
        passed, samples = CODES["passed"], self.samples
        return {str(place): of.count(passed) / samples for place, of in enumerate(own) if _ABSENT not in of}

    def groups(self, outcomes: str) -> Sequence[Group]:
        """Return the rates of each part, or of all problems."""
        return self.grouped(self.rates(outcomes))

    def grouped(self, rates: Mapping[str, Rate]) -> Sequence[Group]:
        """Group rates by place into those of each part, or of all problems."""
        if not self.parts:
            return [Group(1.0, list(rates.values()))]
        found, first = [], 0
        for _, weight, count in self.parts:
            own = [rates[str(place)] for place in range(first, first + count) if str(place) in rates]
            found.append(Group(weight, own))
            first += count
        return found

    def scores(self, outcomes: str) -> dict[str, float]:
        """Return pass@1 of each part, if there are several; empty without outcomes."""
        if not outcomes or not self.parts:
            return {}
        return {name: group.mean for (name, _, _), group in zip(self.parts, self.groups(outcomes), strict=False)}


def encode(report: Report, problems: ProblemSet, samples: int) -> str:
    """Encode the outcomes of a report on the problems of a split; ``-`` stands for a missing outcome."""
    found = {task: "".join(CODES[it.status] for it in outcomes) for task, outcomes in report.samples.items()}
    return "".join(found.get(task, _ABSENT * samples) for task in problems.task_ids)
