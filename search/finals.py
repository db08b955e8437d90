"""The report split: the baselines and the finalists are scored on it once the search is over.

Guarantees: each is scored once. One that its worker could not finish is scored later; one that has ended its worker
twice, or that fails itself, is given up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from optuna.trial import FrozenTrial, TrialState

from evaluation import ProblemSet
from merging import Recipe
from search.errors import STOPS, is_of_the_candidate
from search.machine import Machine
from search.outcomes import letters
from search.reruns import DIED
from search.space.config import SearchConfig
from search.standing import finalists, standing
from search.study import RECIPE, Studies
from search.trial import Bench, Result, describe, machine_failed

_LOG = logging.getLogger("search.finals")


def unreported(studies: Studies, count: int) -> list[FrozenTrial]:
    """Return the baselines and so many finalists that have no score on the report split, and are not given up."""
    known = studies.reports().keys() | studies.given_up()
    best = finalists(studies, count)
    chosen = [trial for trial in studies.baseline_trials() if trial.state is TrialState.COMPLETE] + list(best)
    return [trial for trial in chosen if studies.number(trial) not in known]


@dataclass(frozen=True, slots=True)
class Finals:
    """Scores models on the report split.

    Attributes:
        config: the search's.
        studies: where the models and their scores are.
        bench: what to score with.
        report: the split.
        machine: told what it fails at.
    """

    config: SearchConfig
    studies: Studies
    bench: Bench
    report: ProblemSet
    machine: Machine

    def score(
        self, name: Callable[[FrozenTrial], str], tell: Callable[[Result], None], is_stopping: Callable[[], bool]
    ) -> None:
        """Score what is left to score, unless another worker will.

        Args:
            name: what people call a model.
            tell: called where the machine fails at one.
            is_stopping: whether no other is to be begun.

        Raises:
            SearchError: the machine fails, a parent has changed, or the folder cannot be written.
        """
        if is_stopping() or not len(self.report):
            return
        progress = self.bench.progress
        if self.studies.running_elsewhere():
            progress.say("another worker is still at its last trial; it will score the finalists")
            return
        jobs = unreported(self.studies, self.config.search.finalists)
        progress.begin("report split", len(jobs))
        for index, trial in enumerate(jobs):
            if is_stopping():
                return
            progress.trial(name(trial), index)
            self._score_one(trial, name(trial), tell)

    def _score_one(self, trial: FrozenTrial, name: str, tell: Callable[[Result], None]) -> None:
        studies, bench = self.studies, self.bench
        number, started = studies.number(trial), time.perf_counter()
        tried = studies.report_tried(number)
        studies.try_report(number, [*tried, DIED])  # as long as nothing else is heard of it
        try:
            recipe = Recipe.from_dict(trial.user_attrs[RECIPE], self.config.source)
            with bench.parents.unchanged():
                scores, seconds = bench.score(recipe, self.report, final=True)
                weights = bench.weights_digest(recipe)
        except STOPS:
            studies.try_report(number, tried)
            raise
        except Exception as error:
            reason = describe(error)
            if is_of_the_candidate(error):
                _LOG.exception("trial %d failed on the report split", number)
                studies.try_report(number, reason)
                bench.progress.say(f"{name}: not scored on the report split: {reason}")
                return
            result = machine_failed(number, error, time.perf_counter() - started)
            studies.try_report(number, [*tried, reason])
            tell(result)
            self.machine.has_failed(number, name, result, partial(studies.give_up_report, number))
            return
        self.machine.has_scored()
        bench.folder.save_completions(f"report-{number}", scores.completions)
        studies.save_weights(number, weights)
        studies.save_report(number, letters(scores, self.report, bench.evaluator.sampling.samples))
        bench.progress.scored(scores.pass_at_1, seconds["total"], standing(studies), scores.note)
