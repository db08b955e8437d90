"""One trial: a recipe is merged, scored and recorded.

Guarantees: nothing that goes wrong in a trial ends the study: it is recorded as failed, with its reason, and the
traceback is in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from optuna.study import Study
from optuna.trial import Trial, TrialState
from transformers import PreTrainedTokenizerBase

from evaluation import EvaluationError, Evaluator, ProblemSet, Report
from merging import Merger, MergingError, Recipe, load_tokenizer
from search.progress import Progress
from search.results import ResultsFolder
from search.space import SearchSpace
from search.study import ERROR, KIND, OUTCOMES, RECIPE, SECONDS, TOKENS

_LOG = logging.getLogger("search.trial")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every trial of a worker uses: the merger, the evaluator, the split that may be seen."""

    merger: Merger
    evaluator: Evaluator
    problems: ProblemSet
    tokenizer: str | None
    folder: ResultsFolder
    progress: Progress

    def score(self, recipe: Recipe, problems: ProblemSet) -> tuple[Report, dict[str, float]]:
        """Merge a recipe and score it; return the report and the seconds of each phase."""
        started = time.perf_counter()
        self.progress.phase("merging")
        model = self.merger.apply(recipe, progress=self.progress.step)
        tokenizer = self._tokenizer(recipe)
        merged = time.perf_counter()
        self.progress.phase("evaluating")
        report = self.evaluator.evaluate(model, tokenizer, problems=problems, progress=self.progress.step)
        ended = time.perf_counter()
        seconds = {
            "merging": merged - started,
            "generation": report.generation_seconds,
            "scoring": report.seconds - report.generation_seconds,
            "total": ended - started,
        }
        return report, seconds

    def _tokenizer(self, recipe: Recipe) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.tokenizer) if self.tokenizer else self.merger.tokenizer(recipe)


def run_trial(study: Study, trial: Trial, space: SearchSpace, bench: Bench) -> None:
    """Run one claimed trial to its end, whatever that is, and tell the study."""
    is_baseline = KIND in trial.user_attrs
    started = time.perf_counter()
    try:
        recipe = Recipe.from_dict(trial.user_attrs[RECIPE], space.source) if is_baseline else space.sample(trial)
        if not is_baseline:
            trial.set_user_attr(RECIPE, recipe.to_dict())
        report, seconds = bench.score(recipe, bench.problems)
        bench.folder.save_completions(
            f"{'baseline' if is_baseline else 'trial'}-{trial.number}", report.outcomes.values()
        )
    except (MergingError, EvaluationError, RuntimeError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        _record_failure(study, trial, error, time.perf_counter() - started)
        return
    trial.set_user_attr(OUTCOMES, statuses(report))
    trial.set_user_attr(SECONDS, seconds)
    trial.set_user_attr(TOKENS, sum(outcome.completion_tokens for outcome in report.outcomes.values()))
    study.tell(trial, report.pass_at_1)
    _LOG.info("%s trial %d: %.4f in %.1f s", study.study_name, trial.number, report.pass_at_1, seconds["total"])


def statuses(report: Report) -> Mapping[str, str]:
    """Return what became of each problem, as it is recorded."""
    return {task: outcome.status for task, outcome in report.outcomes.items()}


def _record_failure(study: Study, trial: Trial, error: Exception, seconds: float) -> None:
    _LOG.exception("%s trial %d failed", study.study_name, trial.number)
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    reason = str(error) if isinstance(error, MergingError | EvaluationError) else f"{type(error).__name__}: {error}"
    trial.set_user_attr(ERROR, reason[:2000])
    trial.set_user_attr(SECONDS, {"total": seconds})
    study.tell(trial, state=TrialState.FAIL)
