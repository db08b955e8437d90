"""Candidates for parents side by side: which problems only one model solves, and which two solve between them.

Guarantees: functions of reports on the same problems. What two models solve between them is what a merge of both could
reach if it lost nothing, but this promises no score. With several samples a model solves a problem if one passes, and
of two models the higher rate counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluation.report import Report
from evaluation.scoring import PairedTest, paired_test, weighted_mean


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models.

    Attributes:
        names: both names; the first has no lower score.
        either: pass@1 of taking the better of the two for each problem.
        gain: by how much that surpasses the better model's own score.
        test: the paired test of the first against the second.
    """

    names: tuple[str, str]
    either: float
    gain: float
    test: PairedTest


@dataclass(frozen=True, slots=True)
class Complements:
    """What some models solve, alone and in pairs.

    Attributes:
        alone: the problems that only one model solves, by the model's name.
        pairs: the pairs of models, the one with the largest gain first.
        any: pass@1 of taking the best model for each problem.
        unsolved: the problems that no model solves.
    """

    alone: Mapping[str, Sequence[str]]
    pairs: Sequence[Pair]
    any: float
    unsolved: Sequence[str]


def complements(reports: Mapping[str, Report]) -> Complements:
    """Compare models by their reports on the same problems.

    Args:
        reports: the reports by the models' names; at least one.
    """
    whole = next(iter(reports.values()))
    solvers = {task: [name for name, report in reports.items() if report.rates[task]] for task in whole.samples}
    ranked = sorted(reports, key=lambda name: -reports[name].pass_at_1)
    pairs = [_pair(one, other, reports) for one, other in combinations(ranked, 2)]
    return Complements(
        {name: [task for task, found in solvers.items() if found == [name]] for name in reports},
        sorted(pairs, key=lambda pair: (-pair.gain, -pair.either)),
        _either(list(reports.values())),
        [task for task, found in solvers.items() if not found],
    )


def _pair(one: str, other: str, reports: Mapping[str, Report]) -> Pair:
    first, second = reports[one], reports[other]
    either = _either([first, second])
    return Pair((one, other), either, either - first.pass_at_1, paired_test(first.rates, second.rates))


def _either(reports: Sequence[Report]) -> float:
    """Return the score of taking, for each problem, the model with the highest rate."""
    rates = [report.rates for report in reports]
    return weighted_mean(reports[0].grouped({task: max(each[task] for each in rates) for task in rates[0]}))
