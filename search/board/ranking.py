"""Rankings: what "best", "best parent", "finalist", "front" and "optimism" mean, each defined once, on records.

Guarantees: pure functions. Records may come in any order, and may include some that are not over yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import ge
from typing import get_args

from search.study.record import Kind, TrialRecord

_KINDS: tuple[Kind, ...] = get_args(Kind)


def merit(record: TrialRecord) -> tuple[bool, float, int, float, int]:
    """Return the sort key of records, the highest first.

    The score on the search split decides. Among equal scores parents come first, then the average, then trials; among
    equal trials the likelier, then the earlier. Records without a score come last.
    """
    score = record.search.score
    # A reference model's likelihood tells nothing: its reference completions are found only while it is scored.
    likelihood = record.search.log_likelihood if record.kind == "trial" else None
    likely = -math.inf if likelihood is None else likelihood
    return score is not None, score or 0.0, -_KINDS.index(record.kind), likely, -record.number


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return records by merit, the best first."""
    return sorted(records, key=merit, reverse=True)


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the trial with the highest score on the search split, if any trial has one."""
    return max(_scored(records, "trial"), key=merit, default=None)


def best_parent(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the parent with the highest score on the search split, which trials are compared with."""
    return max(_scored(records, "parent"), key=merit, default=None)


def front(records: Iterable[TrialRecord]) -> frozenset[int]:
    """Return the numbers of the trials on the Pareto front; none with a single objective.

    A trial is on the front if no other trial is better in one objective and at least as good in all the others.
    """
    trials = [record for record in _scored(records, "trial") if len(record.search.scores) > 1]
    unbeaten: list[tuple[float, ...]] = []
    for scores in sorted({record.search.scores for record in trials}, reverse=True):
        # Scores that beat these ones are higher in this order, too.
        if not any(all(map(ge, others, scores)) for others in unbeaten):
            unbeaten.append(scores)
    return frozenset(record.number for record in trials if record.search.scores in unbeaten)


def finalists(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return the `count` best trials with different recipes, those on the Pareto front first."""
    on_front = front(records)
    chosen: list[TrialRecord] = []
    for record in sorted(ranked(_scored(records, "trial")), key=lambda record: record.number not in on_front):
        if len(chosen) == count:
            break
        if all(record.recipe != other.recipe for other in chosen):
            chosen.append(record)
    return chosen


def unreported(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return the reference models and the `count` finalists whose scoring on the report split is not over.

    The reference models come first, in the order of their numbers. Models without a score on the search split are not
    scored on the report split either.
    """
    references = sorted(_scored(records, "parent"), key=lambda record: record.number)
    candidates = [*references, *_scored(records, "average"), *finalists(records, count)]
    return [record for record in candidates if record.report is None or record.report.state in ("waiting", "running")]


def optimism(record: TrialRecord) -> float | None:
    """Return how much higher a trial scores on the search split, which chose it, than on the report split.

    The more trials there were, the more of the best one's score on the search split is luck. Return None if it lacks a
    score on one of the splits.
    """
    if record.search.score is None or record.report is None or record.report.score is None:
        return None
    return record.search.score - record.report.score


def least_likelihood(records: Iterable[TrialRecord], margin: float | None) -> float | None:
    """Return the likelihood below which trials are pruned: `margin` nats per token below the highest one of a trial.

    Return None if there is no margin, or no trial with a likelihood yet. Reference models do not count; see `merit`.
    """
    known = [record.search.log_likelihood for record in records if record.kind == "trial"]
    highest = max((each for each in known if each is not None), default=None)
    return None if margin is None or highest is None else highest - margin


def _scored(records: Iterable[TrialRecord], kind: Kind) -> list[TrialRecord]:
    return [record for record in records if record.kind == kind and record.search.score is not None]
