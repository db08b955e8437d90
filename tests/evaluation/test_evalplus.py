"""EvalPlus' problem sets: what is passed, and what inputs are, against what evalplus 0.3.1 says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from evaluation import EvaluationError, SandboxPool, load_problems
from evaluation.problems.mbpp_inputs import restore
from tests.evaluation.evalplus_cases import JUDGED, MBPP_INPUTS, Judged
from tests.evaluation.evalplus_table import recorded

# evalplus 0.3.1 counts no input of find_zero as checked, and then fails every solution for that: here is what it means.
ROOTS = [True, True, False, False, False]
VERDICTS = [
    ROOTS if judged.problem["entry_point"] == "find_zero" else theirs
    for judged, theirs in zip(JUDGED, recorded()["verdicts"], strict=True)
]


@pytest.mark.parametrize(
    ("judged", "theirs"),
    list(zip(JUDGED, VERDICTS, strict=True)),
    ids=[judged.problem["task_id"] for judged in JUDGED],
)
def test_solutions_pass_where_evalplus_passes_them(
    tmp_path: Path, sandbox: SandboxPool, judged: Judged, theirs: list[bool]
) -> None:
    file = tmp_path / "HumanEvalPlus.jsonl"
    file.write_text(json.dumps(judged.problem))
    (problem,) = load_problems(file).problems
    for solution, passes in zip(judged.solutions, theirs, strict=True):
        completion = f"    pass\n\n{solution}\n" if problem.style == "function" else solution
        verdict = sandbox.run(problem, completion)
        assert verdict.passed == passes, f"{verdict} of\n{solution}"


def test_the_cases_hold_passes_and_failures() -> None:
    verdicts = [passes for case in VERDICTS for passes in case]
    assert 20 < sum(verdicts) < len(verdicts) - 20


@pytest.mark.parametrize("number", MBPP_INPUTS)
def test_inputs_of_mbpp_plus_are_those_that_evalplus_makes(number: int) -> None:
    theirs = eval(recorded()["inputs"][str(number)])
    assert repr([tuple(each) for each in restore(number, MBPP_INPUTS[number])]) == repr([tuple(it) for it in theirs])


def test_the_reference_passes_its_own_tests(tmp_path: Path, sandbox: SandboxPool) -> None:
    file = tmp_path / "plus.jsonl"
    file.write_text("".join(json.dumps(judged.problem) + "\n" for judged in JUDGED))
    for problem in load_problems(file):
        assert sandbox.run(problem, problem.canonical_solution).passed


@pytest.mark.parametrize(
    ("task_id", "digest"),
    [
        ("HumanEval/0", "8914e362ba6b3ec52d42e46c472b138610a254c9992cdd5dba2b78f6bb49c6d1"),
        ("Mbpp/2", "a71ae3e92781c376ca5d64f98b74de0741eb36b6c2f09497a01f84e9b722831b"),
    ],
)
def test_the_text_of_the_tests_stays_as_it_is(tmp_path: Path, task_id: str, digest: str) -> None:
    row = {"task_id": task_id, "prompt": "", "entry_point": "f", "canonical_solution": "", "atol": 0}
    file = tmp_path / "plus.jsonl"
    file.write_text(json.dumps({**row, "base_input": [[[1], [2]]], "plus_input": []}))
    (problem,) = load_problems(file)
    assert hashlib.sha256(problem.test.encode()).hexdigest() == digest, (
        "the tests hold the text of evaluation/problems/differential.py, with its comments: after a change of it no "
        "search of humaneval+ or mbpp+ that has begun can go on, and their programs are executed again. Undo a change "
        "of words; after a change of the rules, put the new digest here and tell users in CHANGELOG.md"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atol": "0"}, "field 'atol' is not a number"),
        ({"base_input": 3}, "field 'base_input' is not a list of lists of arguments"),
        ({"task_id": "Mbpp/2", "plus_input": [[1, 2]]}, "the inputs are not those of Mbpp/2"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "plus.jsonl"
    file.write_text(json.dumps({**JUDGED[0].problem, **change}))
    with pytest.raises(EvaluationError, match=rf"plus\.jsonl:1: {message}"):
        load_problems(file)
