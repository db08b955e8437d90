"""The evaluator: consent, reports, and verdicts that are reused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evaluation import ConsentError, DraftBook, EvaluationError, Evaluator, Problem, ProblemSet, Status
from evaluation.prompts import extract, render
from evaluation.sandbox.verdict import Verdict


@pytest.fixture
def problems(adder: Problem) -> ProblemSet:
    """A problem that no random model solves, and one whose tests accept everything."""
    accepting = Problem("toy/any", adder.prompt, "add", "", "def check(candidate):\n    pass\n")
    return ProblemSet("toy", (adder, accepting))


def test_without_consent_there_is_no_evaluator(humaneval: ProblemSet) -> None:
    with pytest.raises(ConsentError, match="allow_code_execution"):
        Evaluator(humaneval, allow_code_execution=False)


def test_a_report_has_an_outcome_for_every_problem(problems: ProblemSet, tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    seen: list[tuple[int, int]] = []
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=8, workers=1) as evaluator:
        report = evaluator.evaluate(model, tokenizer, progress=lambda done, total: seen.append((done, total)))
    assert tuple(report.outcomes) == problems.task_ids
    assert seen == [(1, 2), (2, 2)]
    assert report.problems == "toy"
    assert 0 < report.generation_seconds <= report.seconds
    for problem in problems:
        outcome = report.outcomes[problem.task_id]
        ids = tokenizer.encode(render(problem, "completion", tokenizer))
        out = model.generate(_row(ids), max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert outcome.completion == extract(problem, "completion", text)
        assert outcome.passed == (outcome.status == "passed")
    passed = sum(outcome.passed for outcome in report.outcomes.values())
    assert report.pass_at_1 == passed / 2


def _row(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


def test_drafts_change_no_outcome_and_give_the_references_a_likelihood(
    adder: Problem, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    # What a model writes behind the comment sign changes nothing.
    solved = Problem("toy/solved", "def add(a, b):\n    return a + b #", "add", "", adder.test)
    problems = ProblemSet("toy", (adder, solved))
    book = DraftBook()
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
        first = evaluator.evaluate(model, tokenizer, drafts=book, parent=True)
        plain = evaluator.evaluate(model, tokenizer, plain=True)
        calls: list[int] = []
        with model.register_forward_pre_hook(lambda *_: calls.append(1)):
            again = evaluator.evaluate(model, tokenizer, drafts=book)
    assert first.outcomes == plain.outcomes
    assert first.log_likelihood is None
    assert len(calls) <= 3
    for task, outcome in again.outcomes.items():
        assert replace(outcome, log_likelihood=None) == first.outcomes[task]
        # What is passed by a parent is the reference; greedy choices are likely, and no more than certain.
        assert (outcome.log_likelihood is not None) == outcome.passed
    assert again.outcomes["toy/solved"].passed
    assert again.log_likelihood is not None
    assert -6 < again.log_likelihood < 0  # a uniform guess among 262 tokens is worth -5.6


def test_a_part_of_the_problems_can_be_scored(problems: ProblemSet, tiny_model: tuple[Any, Any]) -> None:
    part = problems.subset(["toy/any"])
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        assert tuple(evaluator.evaluate(*tiny_model, problems=part).outcomes) == ("toy/any",)
        nothing = ProblemSet("toy", ())
        assert evaluator.evaluate(*tiny_model, problems=nothing).outcomes == {}
        assert list(evaluator.stream(*tiny_model, problems=nothing)) == []


def test_a_problem_that_cannot_be_scored_is_named_before_a_model_is_asked(problems: ProblemSet, adder: Problem) -> None:
    test = "def check(candidate):\n    candidate(lambda v: v, 1)\n"
    unscorable = Problem("toy/lambda", adder.prompt, "add", adder.canonical_solution, test)
    with pytest.raises(EvaluationError, match=r"1 of 3 problems .* toy/lambda \(.*function"):
        Evaluator(ProblemSet("toy", (*problems, unscorable)), allow_code_execution=True, workers=1)


def test_the_same_completion_is_executed_once(
    problems: ProblemSet, tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.sandbox.worker import Worker

    executed: list[str] = []
    check = Worker.check

    def counted(self: Worker, problem: Problem, completion: str) -> Verdict:
        executed.append(problem.task_id)
        return check(self, problem, completion)

    monkeypatch.setattr(Worker, "check", counted)
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        executed.clear()  # the problems' own solutions
        first, second = (evaluator.evaluate(*tiny_model) for _ in range(2))
    assert sorted(executed) == sorted(problems.task_ids)
    assert first.outcomes == second.outcomes


def test_outcomes_can_be_taken_one_by_one(problems: ProblemSet, tiny_model: tuple[Any, Any]) -> None:
    statuses: set[Status] = {"passed", "failed"}
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        stream = evaluator.stream(*tiny_model)
        first = next(iter(stream))
        assert first.status in statuses
        report = evaluator.evaluate(*tiny_model)
    assert report.outcomes[first.task_id] == first
