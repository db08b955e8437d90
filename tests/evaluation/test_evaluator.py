"""The evaluator: consent, reports, and verdicts that are reused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from evaluation import (
    ConsentError,
    DraftStore,
    EvaluationError,
    Evaluator,
    ModelError,
    Observer,
    Outcome,
    OutcomeCounter,
    Problem,
    ProblemSet,
    Sampling,
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
        report = evaluator.evaluate(model, tokenizer, observers=[OutcomeCounter(lambda *counts: seen.append(counts))])
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
    """Two problems. Every model passes one of them: what it writes after the comment sign changes nothing."""
    solved = Problem("toy/solved", "def add(a, b):\n    return a + b #", "add", "", adder.test)
    return ProblemSet("toy", (adder, solved))


@pytest.mark.parametrize("beyond", [0, 1, 10**6])
def test_a_draft_with_tokens_that_a_model_has_not_is_left_out(
    problems: ProblemSet, tiny_model: tuple[Any, Any], beyond: int
) -> None:
    model, tokenizer = tiny_model
    unknown = model.get_input_embeddings().weight.shape[0] + beyond

    class Larger(DraftStore):
        """What a fine-tune of the model with added tokens wrote."""

        def drafts(self, prompt: str) -> list[tuple[int, ...]]:
            return [(unknown,), *super().drafts(prompt), (5, unknown)]

        def reference(self, prompt: str) -> tuple[int, ...]:
            return (5, unknown) if beyond else super().reference(prompt)

    with Evaluator(problems, allow_code_execution=True, max_new_tokens=8, workers=1) as evaluator:
        plain = evaluator.evaluate(model, tokenizer)
        found = evaluator.evaluate(model, tokenizer, drafts=Larger())
    assert [it.completion for it in found.completions] == [it.completion for it in plain.completions]


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_prompt_with_a_token_that_a_model_has_not_is_named(
    problems: ProblemSet, tiny_model: tuple[Any, Any], beyond: int
) -> None:
    model, tokenizer = tiny_model
    rows = model.get_input_embeddings().weight.shape[0]
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens([f"<{number}>" for number in range(rows + beyond - len(longer))])
    longer.add_tokens(["Return"])
    wanted = (
        rf"toy/(add|any): its prompt has the token {rows + beyond} \('Return'\), but the model has {rows} embeddings"
    )
    with (
        Evaluator(problems, allow_code_execution=True, max_new_tokens=8, workers=1) as evaluator,
        pytest.raises(ModelError, match=wanted),
    ):
        evaluator.evaluate(model, longer)


def test_drafts_change_no_outcome_and_give_the_references_a_likelihood(
    half_solved: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    store = DraftStore()
    with Evaluator(half_solved, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
        first = evaluator.evaluate(model, tokenizer, drafts=store, parent=True)
        plain = evaluator.evaluate(model, tokenizer, plain=True)
        calls: list[int] = []
        with model.register_forward_pre_hook(lambda *_: calls.append(1)):
            again = evaluator.evaluate(model, tokenizer, drafts=store)
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


class Recorder(Observer):
    """Notes what it hears, and raises after so many events of a kind."""

    def __init__(self, likelihoods: int = 0, outcomes: int = 0) -> None:
        self.likelihoods: list[tuple[str, float, int, int]] = []
        self.completions: list[tuple[int, int]] = []
        self.outcomes: list[tuple[Outcome, int, int]] = []
        self._most = likelihoods, outcomes

    def on_likelihood(self, task_id: str, log_likelihood: float, done: int, total: int) -> None:
        self.likelihoods.append((task_id, log_likelihood, done, total))
        if done == self._most[0]:
            raise Enough

    def on_completion(self, done: int, total: int) -> None:
        self.completions.append((done, total))

    def on_outcome(self, outcome: Outcome, done: int, total: int) -> None:
        self.outcomes.append((outcome, done, total))
        if done == self._most[1]:
            raise Enough


class Enough(Exception):
    """Ends an evaluation."""


def test_observers_hear_of_every_likelihood_and_every_outcome(
    half_solved: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    store, first, second = DraftStore(), Recorder(), Recorder()
    with Evaluator(half_solved, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
        without = evaluator.evaluate(*tiny_model, drafts=store, parent=True, observers=[first])
        report = evaluator.evaluate(*tiny_model, drafts=store, observers=[first, second])
    assert without.log_likelihood is None
    assert second.likelihoods == first.likelihoods == [("toy/solved", report.log_likelihood, 1, 1)]
    for recorder, own in ((first, first.outcomes[:2]), (second, second.outcomes)):
        assert [counts for _, *counts in own] == [[1, 2], [2, 2]], recorder
    assert {it.task_id: it for it, *_ in second.outcomes} == report.outcomes
    assert first.completions[:2] == second.completions == [(1, 2), (2, 2)]
    assert 0 < report.accepted <= report.guessed


def test_a_counter_says_when_outcomes_are_all_that_is_left(problems: ProblemSet) -> None:
    events: list[object] = []
    counter = OutcomeCounter(
        lambda *counts: events.append(counts), lambda *counts: events.append(("checking", *counts))
    )
    outcome = Outcome(problems.task_ids[0], True, "passed", "", "", 1)
    counter.on_completion(1, 3)
    counter.on_outcome(outcome, 1, 3)
    counter.on_completion(2, 3)
    counter.on_completion(3, 3)
    counter.on_outcome(outcome, 2, 3)
    assert events == [(1, 3), ("checking", 1, 3), (2, 3)]


@pytest.mark.parametrize("event", ["likelihoods", "outcomes"])
def test_an_observer_may_end_the_evaluation(half_solved: ProblemSet, tiny_model: tuple[Any, Any], event: str) -> None:
    model, tokenizer = tiny_model
    attention = model.config._attn_implementation
    store = DraftStore()
    with Evaluator(half_solved, allow_code_execution=True, max_new_tokens=24, workers=1) as evaluator:
        first = evaluator.evaluate(model, tokenizer, drafts=store, parent=True)
        passes: list[int] = []
        with model.register_forward_pre_hook(lambda *_: passes.append(1)), pytest.raises(Enough) as raised:
            evaluator.evaluate(model, tokenizer, drafts=store, observers=[Recorder(**{event: 1})])
        assert len(passes) <= (2 if event == "likelihoods" else 24)  # the probe of the slots, and the prompts
        assert model.config._attn_implementation == attention, raised  # which still holds the traceback
        after = evaluator.evaluate(model, tokenizer, drafts=store)
    assert after.pass_at_1 == first.pass_at_1 == 0.5


@pytest.mark.parametrize("batch_size", [1, 3])
def test_problems_are_generated_in_the_order_that_the_caller_chooses(
    adder: Problem, tiny_model: tuple[Any, Any], batch_size: int
) -> None:
    lengths = {"toy/b": 2, "toy/a": 30, "toy/d": 5, "toy/c": 12}
    solved = [replace(adder, task_id=task, prompt="#" * size + "\n") for task, size in lengths.items()]
    problems = ProblemSet("toy", tuple(solved))
    mine = ["toy/c", "toy/b", "toy/d", "toy/a"]
    found, heard = [], []
    options: dict[str, Any] = {"allow_code_execution": True, "max_new_tokens": 6, "workers": 1}
    with Evaluator(problems, batch_size=batch_size, **options) as evaluator:
        for order in (None, mine):
            recorder = Recorder()
            found.append(evaluator.evaluate(*tiny_model, order=order, observers=[recorder]))
            heard.append([outcome.task_id for outcome, *_ in recorder.outcomes])
        with pytest.raises(EvaluationError, match="the order must name each of the 4 problems once"):
            evaluator.evaluate(*tiny_model, order=["toy/a", "toy/a", "toy/b", "toy/c"])
    assert found[0].outcomes == found[1].outcomes
    assert [tuple(report.outcomes) for report in found] == [problems.task_ids] * 2
    if batch_size == 1:
        assert heard == [["toy/a", "toy/c", "toy/d", "toy/b"], mine]


def test_a_part_of_the_problems_can_be_scored(problems: ProblemSet, tiny_model: tuple[Any, Any]) -> None:
    part = problems.subset(["toy/any"])
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        assert tuple(evaluator.evaluate(*tiny_model, problems=part).outcomes) == ("toy/any",)
        nothing = ProblemSet("toy", ())
        assert evaluator.evaluate(*tiny_model, problems=nothing).outcomes == {}


def test_a_problem_that_cannot_be_scored_is_named_before_a_model_is_asked(problems: ProblemSet, adder: Problem) -> None:
    test = "def check(candidate):\n    candidate(lambda v: v, 1)\n"
    unscorable = Problem("toy/lambda", adder.prompt, "add", adder.canonical_solution, test)
    with pytest.raises(EvaluationError, match=r"1 of 3 problems .* toy/lambda \(.*function"):
        Evaluator(ProblemSet("toy", (*problems, unscorable)), allow_code_execution=True, workers=1)


def test_the_same_completion_is_executed_once(
    problems: ProblemSet, tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.sandbox.zygote_pair import ZygotePair

    executed: list[str] = []
    check = ZygotePair.check

    def counted(self: ZygotePair, problem: Problem, completion: str) -> Verdict:
        executed.append(problem.task_id)
        return check(self, problem, completion)

    monkeypatch.setattr(ZygotePair, "check", counted)
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        executed.clear()  # the problems' own solutions
        first, second = (evaluator.evaluate(*tiny_model) for _ in range(2))
    assert sorted(executed) == sorted(problems.task_ids)
    assert first.outcomes == second.outcomes


def test_several_samples_are_drawn_of_each_problem_whichever_part_is_scored(
    problems: ProblemSet, tiny_model: tuple[Any, Any]
) -> None:
    sampling = Sampling(samples=10, temperature=1.0, seed=3)
    seen: list[tuple[int, int]] = []
    store = DraftStore()
    options: dict[str, Any] = {"allow_code_execution": True, "max_new_tokens": 12, "workers": 1}
    with Evaluator(problems, sampling=sampling, **options) as evaluator:
        counter = OutcomeCounter(lambda *counts: seen.append(counts))
        found = evaluator.evaluate(*tiny_model, observers=[counter], drafts=store)
        again = evaluator.evaluate(*tiny_model, problems=problems.subset(["toy/any"]), drafts=store)
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


def test_a_problem_may_have_a_prompt_format_of_its_own(
    problems: ProblemSet, adder: Problem, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<answer>"
    both = ProblemSet("toy", (*problems, replace(adder, task_id="toy/chat", prompt_format="chat")))
    with Evaluator(both, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        tokens = evaluator.prompt_tokens(tokenizer, "completion")
        assert tokens[0] == tuple(tokenizer.encode(render(adder, "completion", tokenizer)))
        assert tokens[2] == tuple(tokenizer.encode(render(adder, "chat", tokenizer), add_special_tokens=False))
        assert len(evaluator.evaluate(model, tokenizer).outcomes) == 3
