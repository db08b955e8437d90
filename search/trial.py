"""One trial: a recipe is merged, scored and recorded.

Guarantees: nothing that goes wrong with a candidate ends the study: it is recorded as failed, with its reason, and the
traceback is in the log. What goes wrong with the machine is no failure of the candidate's: the study is not told of it.
What goes wrong with the results folder is raised.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation import EvaluationError, Evaluator, Observer, OutcomeCounter, ProblemSet, Report
from evaluation.generation.free_memory import is_device_lost, is_out_of_memory, release_unused
from merging import Merger, MergingError, OutOfMemory, Recipe, renamed
from search.contents import ParentContents
from search.drafts import SharedDrafts
from search.errors import PrunedError, SearchError, is_of_the_candidate
from search.outcomes import letters
from search.progress import Progress
from search.pruning import LikelihoodPruner
from search.reruns import ERROR
from search.results import ResultsFolder
from search.study import ENDS, KIND, LIKELIHOOD, OUTCOMES, RECIPE, SAME_AS, SCORE, SECONDS, TOKENS, score

_LOG = logging.getLogger("search.trial")

AGAIN: Final = "to be run again"


@dataclass(frozen=True, slots=True)
class Bench:
    """What every trial of a worker uses.

    Attributes:
        merger: makes candidates.
        evaluator: scores them.
        problems: the split that the search may see.
        tokenizer: the tokenizer that all use, or None for each merge's own.
        folder: where completions are kept.
        drafts: what was written before, by whichever worker.
        progress: told what happens.
        parents: what the models hold.
        places: where the parents are, by what recipes call them, if that is not where they are.
    """

    merger: Merger
    evaluator: Evaluator
    problems: ProblemSet
    tokenizer: PreTrainedTokenizerBase | None
    folder: ResultsFolder
    drafts: SharedDrafts
    progress: Progress
    parents: ParentContents
    places: Mapping[str, str]

    def merge(self, recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the live model of a recipe, and the tokenizer that it is asked with."""
        here = self._here(recipe)
        model = self.merger.apply(here, progress=self.progress.step)
        return model, self.tokenizer or self.merger.tokenizer(here)

    def weights_digest(self, recipe: Recipe) -> str:
        """Return the digest of the live model's weights, which are those of this recipe."""
        return self.merger.weights_digest(self._here(recipe))

    def _here(self, recipe: Recipe) -> Recipe:
        return Recipe.from_dict(renamed(recipe.to_dict(), self.places), "the recipe") if self.places else recipe

    def score(
        self,
        recipe: Recipe,
        problems: ProblemSet,
        *,
        parent: bool = False,
        final: bool = False,
        least_likelihood: float | None = None,
    ) -> tuple[Report, dict[str, float]]:
        """Merge a recipe and score it; return the report and the seconds of each phase.

        Where memory runs out, what nobody uses is given back, and all of it is done once more.

        Args:
            recipe: the merge.
            problems: the split to score it on.
            parent: whether it is a parent, or their average: what later candidates are compared with.
            final: score it on its own, without drafts and at a fixed batch size, as all on the report split are.
            least_likelihood: below which it is pruned; see `LikelihoodPruner`.
        """
        try:
            return self._score(recipe, problems, parent, final, least_likelihood)
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, OutOfMemory)):
                raise
            _LOG.warning("out of memory; what nobody uses is given back, and it is tried once more", exc_info=error)
        release_unused()  # only here: the error held what its frames held
        return self._score(recipe, problems, parent, final, least_likelihood)

    def _score(
        self, recipe: Recipe, problems: ProblemSet, parent: bool, final: bool, least_likelihood: float | None
    ) -> tuple[Report, dict[str, float]]:
        started = time.perf_counter()
        self.progress.phase("merging")
        model, tokenizer = self.merge(recipe)
        merged = time.perf_counter()
        self.progress.phase("evaluating")
        observers: list[Observer] = [OutcomeCounter(self.progress.step)]
        if least_likelihood is not None:
            observers.append(LikelihoodPruner(least_likelihood))
        report = self.evaluator.evaluate(
            model,
            tokenizer,
            problems=problems,
            observers=observers,
            drafts=None if final else self.drafts,
            parent=parent,
            plain=final,
        )
        ended = time.perf_counter()
        seconds = {
            "merging": merged - started,
            "generation": report.generation_seconds,
            "scoring": report.seconds - report.generation_seconds,
            "total": ended - started,
        }
        return report, seconds


@dataclass(frozen=True, slots=True)
class Result:
    """How a trial ended.

    Attributes:
        score: of the candidate, or None.
        seconds: what it took.
        note: why there is no score; or whose outcomes it has, or what else is wrong with the model.
        ended: where there is no score; `AGAIN`: the machine has failed, and not the candidate, which is not over.
        device_lost: whether this process can run no other either.
    """

    score: float | None
    seconds: float
    note: str = ""
    ended: Literal["failed", "pruned", "to be run again"] = "failed"
    device_lost: bool = False

    @property
    def scored_here(self) -> bool:
        """Whether this machine has scored or pruned a model; a repeated trial takes no time."""
        return self.seconds > 0 and (self.score is not None or self.ended == "pruned")


def run_trial(
    study: Study,
    trial: Trial,
    number: int,
    recipe: Callable[[], Recipe],
    bench: Bench,
    least_likelihood: float | None = None,
) -> Result:
    """Run one claimed trial to its end and tell the study; not if the machine fails, after which it is not over.

    Args:
        study: the trial's.
        trial: what was claimed.
        number: what people call it.
        recipe: gives the merge; may fail.
        bench: what to run it with.
        least_likelihood: below which the candidate is pruned.
    """
    started = time.perf_counter()
    bench.drafts.sync()
    try:
        merge = recipe()
    except (MergingError, ValueError) as error:
        return _failed(study, trial, number, error, time.perf_counter() - started)
    trial.set_user_attr(RECIPE, merge.to_dict())
    try:
        parent = KIND in trial.user_attrs
        with bench.parents.unchanged():
            report, seconds = bench.score(merge, bench.problems, parent=parent, least_likelihood=least_likelihood)
    except SearchError:
        raise
    except PrunedError as error:
        return _pruned(study, trial, number, error, time.perf_counter() - started)
    except Exception as error:  # whatever it is, the study goes on
        seconds_taken = time.perf_counter() - started
        if not is_of_the_candidate(error):
            return machine_failed(number, error, seconds_taken)
        return _failed(study, trial, number, error, seconds_taken)
    bench.drafts.sync()
    bench.folder.save_completions(f"trial-{number}", report.completions)
    trial.set_user_attr(OUTCOMES, letters(report, bench.problems, bench.evaluator.sampling.samples))
    trial.set_user_attr(SECONDS, seconds)
    trial.set_user_attr(TOKENS, sum(outcome.completion_tokens for outcome in report.completions))
    trial.set_user_attr(ENDS, report.end_tokens)
    _keep_likelihood(trial, report.log_likelihood)
    if report.note:
        _LOG.warning("trial %d: %s", number, report.note)
        trial.set_user_attr(ERROR, report.note)
    if len(study.directions) == 1:
        study.tell(trial, report.pass_at_1)
    else:
        trial.set_user_attr(SCORE, report.pass_at_1)
        study.tell(trial, list(report.scores.values()))
    _LOG.info("trial %d: %.4f in %.1f s", number, report.pass_at_1, seconds["total"])
    return Result(report.pass_at_1, seconds["total"], report.note)


def repeat_trial(study: Study, trial: Trial, number: int, twin: FrozenTrial, first: int) -> Result:
    """Give a claimed trial the outcomes of one with the same numbers, which writes the same completions.

    Args:
        study: the trials'.
        trial: what was claimed.
        number: what people call it.
        twin: the trial that was scored.
        first: what people call that.
    """
    for key in (RECIPE, SCORE, OUTCOMES, TOKENS, ENDS, LIKELIHOOD, ERROR):
        if key in twin.user_attrs:
            trial.set_user_attr(key, twin.user_attrs[key])
    trial.set_user_attr(SAME_AS, first)
    trial.set_user_attr(SECONDS, {"total": 0.0})
    study.tell(trial, twin.values)
    _LOG.info("trial %d: the same merge as trial %d, and so its outcomes", number, first)
    return Result(score(twin), 0.0, f"the same merge as trial {first}")


def machine_failed(number: int, error: Exception, seconds: float) -> Result:
    """Return the result of a trial, or of a model on the report split, that the machine kept from its end."""
    _LOG.error("trial %d: the machine failed", number, exc_info=error)
    return Result(None, seconds, describe(error), AGAIN, is_device_lost(error))


def describe(error: Exception) -> str:
    """Return what an error says, for people."""
    known = isinstance(error, MergingError | EvaluationError)
    return (str(error) if known else f"{type(error).__name__}: {error}")[:2000]


def _keep_likelihood(trial: Trial, log_likelihood: float | None) -> None:
    # What is infinite has no place in JSON.
    if log_likelihood is not None and math.isfinite(log_likelihood):
        trial.set_user_attr(LIKELIHOOD, log_likelihood)


def _pruned(study: Study, trial: Trial, number: int, error: PrunedError, seconds: float) -> Result:
    _LOG.info("trial %d: %s", number, error)
    _keep_likelihood(trial, error.log_likelihood)
    trial.set_user_attr(SECONDS, {"total": seconds})
    study.tell(trial, state=TrialState.PRUNED)
    return Result(None, seconds, str(error), "pruned")


def _failed(study: Study, trial: Trial, number: int, error: Exception, seconds: float) -> Result:
    _LOG.error("trial %d failed", number, exc_info=error)
    reason = describe(error)
    trial.set_user_attr(ERROR, reason)
    trial.set_user_attr(SECONDS, {"total": seconds})
    study.tell(trial, state=TrialState.FAIL)
    return Result(None, seconds, reason)
