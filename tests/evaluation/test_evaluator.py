"""The evaluator: consent, reports, and verdicts that are reused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from evaluation import (
    ConsentError,
    DraftBook,
    EvaluationError,
    Evaluator,
    Problem,
    ProblemSet,
    Sampling,
    ScreenedError,
    Status,
    pass_at_k,
)
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
    assert list(report.completions) == list(report.outcomes.values())
    assert report.tries == [1]


def _row(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


@pytest.fixture
def half_solved(adder: Problem) -> ProblemSet:
    """Two problems, one of which every model passes: what it writes behind the comment sign changes nothing."""
    solved = Problem("toy/solved", "def add(a, b):\n    return a + b #", "add", "", adder.test)
    return ProblemSet("toy", (adder, solved))


@pytest.mark.parametrize("beyond", [0, 1, 10**6])
def test_a_draft_with_tokens_that_a_model_has_not_is_left_out(
    problems: ProblemSet, tiny_model: tuple[Any, Any], beyond: int
) -> None:
    model, tokenizer = tiny_model
    unknown = model.get_input_embeddings().weight.shape[0] + beyond

    class Larger(DraftBook):
        """What a fine-tune of the model with added tokens wrote."""

        def drafts(self, prompt: str) -> list[tuple[int, ...]]:
            return [(unknown,), *super().drafts(prompt), (5, unknown)]

        def reference(self, prompt: str) -> tuple[int, ...]:
            return (5, unknown) if beyond else super().reference(prompt)

    with Evaluator(problems, allow_code_execution=True, max_new_tokens=8, workers=1) as evaluator:
        plain = evaluator.evaluate(model, tokenizer)
        found = evaluator.evaluate(model, tokenizer, drafts=Larger())
    assert [it.completion for it in found.completions] == [it.completion for it in plain.completions]


def test_drafts_change_no_outcome_and_give_the_references_a_likelihood(
    half_solved: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    book = DraftBook()
    with Evaluator(half_solved, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
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


def test_a_model_that_finds_the_references_unlikely_is_not_scored_to_the_end(
    half_solved: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    book = DraftBook()
    with Evaluator(half_solved, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
        # Without a reference there is nothing to screen by.
        first = evaluator.evaluate(model, tokenizer, drafts=book, parent=True, least_likelihood=0.0)
        known = evaluator.evaluate(model, tokenizer, drafts=book).log_likelihood
        assert known is not None
        again = evaluator.evaluate(model, tokenizer, drafts=book, least_likelihood=known - 0.01)
        calls: list[int] = []
        with (
            model.register_forward_pre_hook(lambda *_: calls.append(1)),
            pytest.raises(ScreenedError, match=r"what parents passed with has -\d\.\d\d nats a token") as raised,
        ):
            evaluator.evaluate(model, tokenizer, drafts=book, least_likelihood=known + 0.01)
        assert raised.value.log_likelihood == pytest.approx(known)
        assert len(calls) <= 2  # the probe of the slots, and the prompts
        after = evaluator.evaluate(model, tokenizer, drafts=book)
    assert [report.pass_at_1 for report in (first, again, after)] == [0.5, 0.5, 0.5]


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


def test_several_samples_are_drawn_of_each_problem_whichever_part_is_scored(
    problems: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    sampling = Sampling(samples=10, temperature=1.0, seed=3)
    seen: list[tuple[int, int]] = []
    book = DraftBook()
    options: dict[str, Any] = {"allow_code_execution": True, "max_new_tokens": 12, "workers": 1}
    with Evaluator(problems, sampling=sampling, **options) as evaluator:
        found = evaluator.evaluate(*tiny_model, progress=lambda done, of: seen.append((done, of)), drafts=book)
        again = evaluator.evaluate(*tiny_model, problems=problems.subset(["toy/any"]), drafts=book)
        plain = evaluator.evaluate(*tiny_model, plain=True)
    assert seen[-1] == (20, 20)
    assert {task: len(own) for task, own in found.samples.items()} == dict.fromkeys(problems.task_ids, 10)
    assert len({outcome.completion for outcome in found.samples["toy/any"]}) > 5
    written = [[outcome.completion for outcome in each.samples["toy/any"]] for each in (found, again, plain)]
    assert written[0] == written[1] == written[2]
    passed = {task: [outcome.passed for outcome in own] for task, own in found.samples.items()}
    assert found.tries == [1, 10]
    for k in (1, 2, 10):
        assert found.pass_at(k) == pytest.approx(pass_at_k(passed, k))
    low, high = found.interval
    assert low <= found.pass_at_1 <= high


def test_a_problem_may_be_asked_in_another_format_than_the_others(
    problems: ProblemSet, adder: Problem, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<answer>"
    both = ProblemSet("toy", (*problems, replace(adder, task_id="toy/asked", asked="chat")))
    with Evaluator(both, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        tokens = evaluator.prompt_tokens(tokenizer, "completion")
        assert tokens[0] == tuple(tokenizer.encode(render(adder, "completion", tokenizer)))
        assert tokens[2] == tuple(tokenizer.encode(render(adder, "chat", tokenizer), add_special_tokens=False))
        assert len(evaluator.evaluate(model, tokenizer).outcomes) == 3
