"""One job: merges a model, scores it on a split, and records the result.

Guarantees: no error of a candidate ends the search: its record is failed, with the reason, and the traceback is in the
log. When the machine fails, the candidate has not failed: the job is to be run again. An error of the results folder
is raised.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation import EvaluationError, Evaluator, Observer, OutcomeCounter, ProblemSet, Report
from evaluation.generation.backend_protocol import StreamedWeights
from evaluation.generation.out_of_memory import is_device_lost, is_out_of_memory, release_unused
from merging import Merger, MergingError, OutOfMemory, Recipe, renamed
from search.ascent.ascent import AscentOverError
from search.board.names import record_name
from search.contents import ParentContents
from search.errors import PrunedError, SearchError, is_of_the_candidate
from search.progress import Progress
from search.results import ResultsFolder
from search.study.drafts import SharedDrafts
from search.study.outcomes import encode
from search.study.record import Scoring, SplitName, State, TrialRecord
from search.study.store import Job

Pruners: TypeAlias = Callable[[], list[Observer]]

_LOG = logging.getLogger("search.trial")

OTHER_SEEDS = 2
"""The number of other random seeds under which a finalist is scored in its confirmation."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The tools and data that every job of a worker uses.

    Attributes:
        merger: makes candidates.
        evaluator: scores them.
        splits: the problems of each split.
        objectives: the number of scores of a trial: one, or one per problem set.
        tokenizer: the tokenizer for all prompts, or None for each merge's own.
        folder: the results folder, which keeps completions.
        drafts: the completions generated so far, by all workers.
        progress: shows what happens.
        parents: the contents of the parents.
        places: the present places of parents that have moved, by their names in recipes.
        takes_turns: whether each merge begins and ends with a release of unused memory, which generation uses in turn.
    """

    merger: Merger
    evaluator: Evaluator
    splits: Mapping[SplitName, ProblemSet]
    objectives: int
    tokenizer: PreTrainedTokenizerBase | None
    folder: ResultsFolder
    drafts: SharedDrafts
    progress: Progress
    parents: ParentContents
    places: Mapping[str, str]
    takes_turns: bool = False

    def merge(self, recipe: Recipe) -> tuple[PreTrainedModel, StreamedWeights | None]:
        """Return the live model of a recipe, or one without tensors together with the weights that are streamed."""
        located = self.located(recipe)
        if not self.evaluator.streams:
            return self._applied(located), None
        weights = StreamedWeights(self.merger.parents.device, partial(self._streamed, located))
        return self.merger.skeleton(located), weights

    def _applied(self, located: Recipe) -> PreTrainedModel:
        if not self.takes_turns:
            return self.merger.apply(located, progress=self.progress.step)
        release_unused()
        model = self.merger.apply(located, progress=self.progress.step)
        release_unused()
        return model

    def warm_up(self, recipe: Recipe) -> None:
        """Merge a recipe once, so that its code is compiled and all that depends only on the parents is computed."""
        _, weights = self.merge(recipe)
        for _ in weights.tensors() if weights else ():
            pass

    def _streamed(self, located: Recipe) -> Iterator[tuple[str, Tensor]]:
        self.progress.phase("merging")
        yield from self.merger.stream(located, self.progress.step)
        self.progress.phase("evaluating")

    def tokenizer_of(self, recipe: Recipe) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a recipe's prompts."""
        return self.tokenizer or self.merger.tokenizer(self.located(recipe))

    def weights_digest(self, recipe: Recipe) -> str:
        """Return the digest of a recipe's weights, those of the live model if there is one."""
        located = self.located(recipe)
        return (self.merger.streamed_digest if self.evaluator.streams else self.merger.weights_digest)(located)

    def under_other_seeds(self, recipe: Recipe, split: SplitName) -> list[str]:
        """Return the outcomes of a merge with random masks under each of `OTHER_SEEDS` other seeds.

        Raises MergingError if it cannot be merged with one of these seeds.
        """
        seed = self.merger.random_seed
        found = []
        try:
            for other in range(seed + 1, seed + 1 + OTHER_SEEDS):
                self.merger.random_seed = other
                report, _ = self.score(recipe, split)
                found.append(encode(report, self.splits[split], self.evaluator.sampling.samples))
        finally:
            self.merger.random_seed = seed
        return found

    def located(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the present places of its models."""
        return Recipe.from_dict(renamed(recipe.to_dict(), self.places), "the recipe") if self.places else recipe

    def score(
        self, recipe: Recipe, split: SplitName, *, parent: bool = False, pruners: Pruners = list
    ) -> tuple[Report, dict[str, float]]:
        """Merge a recipe and score it; return the report and the seconds of each phase.

        If memory runs out, unused memory is released, and the whole is tried again.

        Args:
            recipe: the merge.
            split: the split to score it on; except on the search split, without drafts and at a fixed batch size.
            parent: whether it is a reference model (a parent, or their average).
            pruners: makes new observers that may prune it.
        """
        try:
            return self._score(recipe, split, parent, pruners)
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, OutOfMemory)):
                raise
            _LOG.warning("out of memory: releasing unused memory and trying once more", exc_info=error)
        release_unused()  # only here, because the error kept all that its frames held
        return self._score(recipe, split, parent, pruners)

    def _score(
        self, recipe: Recipe, split: SplitName, parent: bool, pruners: Pruners
    ) -> tuple[Report, dict[str, float]]:
        started = time.perf_counter()
        self.progress.phase("merging")
        tokenizer = self.tokenizer_of(recipe)
        model, weights = self.merge(recipe)
        merged = time.perf_counter()
        self.progress.phase("evaluating")
        report = self.evaluator.evaluate(
            model,
            tokenizer,
            problems=self.splits[split],
            observers=[OutcomeCounter(self.progress.step, self._checking), *pruners()],
            drafts=self.drafts if split == "search" else None,
            parent=parent,
            plain=split != "search",
            weights=weights,
        )
        ended = time.perf_counter()
        seconds = {
            "merging": merged - started,
            "generation": report.generation_seconds,
            "scoring": report.seconds - report.generation_seconds,
            "total": ended - started,
        }
        return report, seconds

    def _checking(self, done: int, total: int) -> None:
        self.progress.phase("checking")
        self.progress.step(done, total)


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended.

    Attributes:
        record: the model's record; None if the machine failed, not the candidate, so that the job is to be run again.
        seconds: the time that the job took.
        note: why there is no score; or whose outcomes it has, or what else is wrong with the model.
        device_lost: whether this process can run no other job either.
    """

    record: TrialRecord | None
    seconds: float
    note: str = ""
    device_lost: bool = False


def run_job(job: Job, recipe: Callable[[], Recipe], bench: Bench, pruners: Pruners = list, number: int = 1) -> Result:
    """Run a job to its end.

    Args:
        job: the claimed job.
        recipe: returns the merge; may fail.
        bench: the tools to run it with.
        pruners: makes new observers that may prune the candidate.
        number: the number of the round, in a confirmation.

    Raises:
        SearchError: a parent has changed, or the results folder cannot be written.
    """
    name, started = record_name(job.record), time.perf_counter()
    bench.drafts.sync()
    try:
        merge = recipe()
    except (MergingError, ValueError) as error:
        return _ended(job, "failed", error, started)
    job = replace(job, record=replace(job.record, recipe=merge.to_dict()))
    try:
        with bench.parents.unchanged():
            report, seconds = bench.score(merge, job.split, parent=job.record.kind != "trial", pruners=pruners)
            digest = bench.weights_digest(merge) if job.split != "search" else job.record.weights_digest
        if job.split == "confirm" and job.record.weights_digest not in (None, digest):
            reason = "its weights differ here from those that were scored on the report split"
            raise SearchError(f"{bench.folder.path}: {name}: {reason}; confirm it where the search ran")
    except SearchError:
        raise
    except PrunedError as error:
        return _ended(job, "pruned", error, started)
    except Exception as error:  # after any other error, the search goes on
        if is_of_the_candidate(error):
            return _ended(job, "failed", error, started)
        _LOG.exception("%s: the machine failed", name)
        return Result(None, time.perf_counter() - started, describe(error), is_device_lost(error))
    bench.drafts.sync()
    bench.folder.completions.save(job.record, job.split, report.completions, number)
    if report.note:
        _LOG.warning("%s: %s", name, report.note)
    _LOG.info("%s: %.4f in %.1f s", name, report.pass_at_1, seconds["total"])
    record = job.record.scored(job.split, _scored(job, report, seconds, bench))
    record = replace(record, end_tokens=tuple(report.end_tokens), weights_digest=digest)
    return Result(record, seconds["total"], report.note)


def repeat_trial(job: Job, first: TrialRecord) -> Result:
    """Give a claimed trial the outcomes of an earlier one with the same parameters, which give the same completions."""
    _LOG.info("%s: the same merge as %s, and so its outcomes", record_name(job.record), record_name(first))
    own = job.record.search
    record = replace(
        job.record,
        recipe=first.recipe,
        search=replace(
            first.search,
            seconds={"total": 0.0},
            worker=own.worker,
            started=own.started,
            tries=own.tries,
            deaths=own.deaths,
        ),
        same_as=first.number,
        end_tokens=first.end_tokens,
    )
    return Result(record, 0.0, f"the same merge as {record_name(first)}")


def describe(error: Exception) -> str:
    """Return an error's message for users."""
    known = isinstance(error, MergingError | EvaluationError | AscentOverError)
    return (str(error) if known else ": ".join(filter(None, (type(error).__name__, str(error)))))[:2000]


def _scored(job: Job, report: Report, seconds: Mapping[str, float], bench: Bench) -> Scoring:
    scores = tuple(report.scores.values()) if bench.objectives > 1 else (report.pass_at_1,)
    return replace(
        job.record.on(job.split),
        state="complete",
        outcomes=encode(report, bench.splits[job.split], bench.evaluator.sampling.samples),
        score=report.pass_at_1,
        scores=scores,
        log_likelihood=_finite(report.log_likelihood),
        seconds=seconds,
        tokens=sum(outcome.completion_tokens for outcome in report.completions),
        guessed=report.guessed,
        accepted=report.accepted,
        error=report.note or None,
    )


def _ended(job: Job, state: State, error: Exception, started: float) -> Result:
    """Return the result of a job whose model has no score."""
    name, seconds = record_name(job.record), time.perf_counter() - started
    if state == "pruned":
        _LOG.info("%s: %s", name, error)
    else:
        _LOG.error("%s failed", name, exc_info=error)
    scoring = replace(
        job.record.on(job.split),
        state=state,
        error=describe(error),
        log_likelihood=_finite(error.log_likelihood) if isinstance(error, PrunedError) else None,
        seconds={"total": seconds},
    )
    return Result(job.record.scored(job.split, scoring), seconds, describe(error))


def _finite(log_likelihood: float | None) -> float | None:
    return log_likelihood if log_likelihood is not None and math.isfinite(log_likelihood) else None
