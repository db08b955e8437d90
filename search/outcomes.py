"""Outcomes as a study keeps them: a letter a completion, in the split's order, so that 100,000 trials fit in memory.

Guarantees: within a results folder the n-th letter is the same problem's in every trial: search.json holds the splits,
and a search with others is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from evaluation import Status
from evaluation.scoring import Group, Rate

if TYPE_CHECKING:  # a leaderboard is read without waiting for torch
    from evaluation import ProblemSet, Report

LETTERS = {status: status[0] for status in get_args(Status)}
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Split:
    """How the letters of a split's outcomes are to be read.

    Attributes:
        samples: letters of each problem, one after another.
        parts: of several sets that are scored together, name, weight and number of problems, in order.
    """

    samples: int = 1
    parts: tuple[tuple[str, float, int], ...] = ()

    @classmethod
    def of(cls, problems: ProblemSet, samples: int) -> Split:
        """Return that of a split's problems, each with so many samples."""
        return cls(samples, tuple((part.name, part.weight, len(part.task_ids)) for part in problems.parts))

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Split:
        """Return the split that `plain` made this of."""
        return cls(plain["samples"], tuple((name, weight, count) for name, weight, count in plain["parts"]))

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON holds it."""
        return {"samples": self.samples, "parts": [list(part) for part in self.parts]}

    def rates(self, letters: str) -> dict[str, Rate]:
        """Return the part of its samples that passed, of each problem with outcomes, by its place in the split."""
        places = range(len(letters) // self.samples)
        own = {place: letters[place * self.samples : (place + 1) * self.samples] for place in places}
        return {
            str(place): found.count(LETTERS["passed"]) / self.samples
            for place, found in own.items()
            if _ABSENT not in found
        }

    def groups(self, letters: str) -> Sequence[Group]:
        """Return the rates of each part, or of all problems."""
        rates = self.rates(letters)
        if not self.parts:
            return [Group(1.0, list(rates.values()))]
        found, first = [], 0
        for _, weight, count in self.parts:
            own = [rates[str(place)] for place in range(first, first + count) if str(place) in rates]
            found.append(Group(weight, own))
            first += count
        return found

    def scores(self, letters: str) -> dict[str, float]:
        """Return pass@1 of each part, where there are several; nothing where there are no outcomes."""
        if not letters:
            return {}
        return {name: group.mean for (name, _, _), group in zip(self.parts, self.groups(letters), strict=False)}


def letters(report: Report, problems: ProblemSet, samples: int) -> str:
    """Return what became of each completion of a split: the first letter of its status, - if it has no outcome."""
    found = {task: "".join(LETTERS[it.status] for it in outcomes) for task, outcomes in report.samples.items()}
    return "".join(found.get(task, _ABSENT * samples) for task in problems.task_ids)
