"""Outcomes as a study keeps them: a letter a problem, in the order of the split, so that 100,000 trials fit in memory.

Guarantees: within a results folder the n-th letter is the same problem in every trial: search.json holds the splits,
and a search with others is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from evaluation import Status

if TYPE_CHECKING:  # a leaderboard is read without waiting for torch
    from evaluation import ProblemSet, Report

LETTERS = {status: status[0] for status in get_args(Status)}
_ABSENT = "-"


def letters(report: Report, problems: ProblemSet) -> str:
    """Return what became of each problem of a split: the first letter of its status, - if it has no outcome."""
    found = {task: LETTERS[outcome.status] for task, outcome in report.outcomes.items()}
    return "".join(found.get(task, _ABSENT) for task in problems.task_ids)


def passed(outcomes: str) -> dict[str, bool]:
    """Return whether each problem that has an outcome was passed, by its place in the split."""
    by_place = enumerate(outcomes)
    return {str(place): letter == LETTERS["passed"] for place, letter in by_place if letter != _ABSENT}
