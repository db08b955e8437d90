"""Outcomes are kept as letters, and read as what they were."""

from __future__ import annotations

from typing import get_args

from evaluation import Outcome, Problem, ProblemSet, Report, Status
from search.outcomes import LETTERS, letters, passed


def test_every_status_has_a_letter_of_its_own() -> None:
    assert LETTERS.keys() == set(get_args(Status))
    assert len(set(LETTERS.values())) == len(LETTERS)


def test_letters_are_in_the_order_of_the_split() -> None:
    problems = ProblemSet("toys", tuple(Problem(task, "", "f", "", "") for task in ("a", "b", "c", "d")))
    found: dict[str, Status] = {"d": "timeout", "a": "failed", "c": "passed"}
    report = Report(
        "toys", "completion", {t: Outcome(t, s == "passed", s, "", "", 1) for t, s in found.items()}, 1.0, 1.0
    )
    assert letters(report, problems) == "f-pt"
    assert passed("f-pt") == {"0": False, "2": True, "3": False}
