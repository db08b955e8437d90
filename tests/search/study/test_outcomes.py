"""Outcomes are encoded as one character per completion, and read as what they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import get_args

import pytest

from evaluation import Outcome, Problem, ProblemSet, Report, Status
from evaluation.problems import Part
from search.study.outcomes import CODES, Split, encode

PROBLEMS = ProblemSet("toys", tuple(Problem(task, "", "f", "", "") for task in ("a", "b", "c", "d")))


def report(found: Mapping[str, list[Status]], problems: ProblemSet = PROBLEMS) -> Report:
    samples = {task: tuple(Outcome(task, s == "passed", s, "", "", 1) for s in own) for task, own in found.items()}
    return Report("toys", "completion", samples, problems.parts, 1.0, 1.0)


def test_every_status_has_a_character_of_its_own() -> None:
    assert CODES.keys() == set(get_args(Status))
    assert len(set(CODES.values())) == len(CODES)


def test_encoded_outcomes_are_in_the_order_of_the_split() -> None:
    found = report({"d": ["timeout"], "a": ["failed"], "c": ["passed"]})
    assert encode(found, PROBLEMS, 1) == "f-pt"
    assert Split().rates("f-pt") == {"0": 0, "2": 1, "3": 0}


def test_several_samples_of_a_problem_stand_together() -> None:
    found = report({"a": ["failed", "passed"], "b": ["passed", "passed"], "d": ["timeout", "failed"]})
    kept = encode(found, PROBLEMS, 2)
    assert kept == "fppp--tf"
    assert Split(2).rates(kept) == {"0": 0.5, "1": 1.0, "3": 0.0}


def test_the_scores_of_several_sets_are_those_of_the_report() -> None:
    parts = (Part("one", 1.0, ("a",)), Part("two", 3.0, ("b", "c", "d")))
    problems = replace(PROBLEMS, parts=parts)
    found = report({"a": ["passed"], "b": ["passed"], "c": ["failed"], "d": ["failed"]}, problems)
    split = Split.restored(json.loads(json.dumps(asdict(Split.of(problems, 1)))))
    assert split.scores(encode(found, problems, 1)) == found.scores == {"one": 1.0, "two": pytest.approx(1 / 3)}
    assert found.pass_at_1 == pytest.approx((1 + 3 / 3) / 4)
    assert found.pass_at(1) == pytest.approx(found.pass_at_1)
    assert split.scores("") == {}
