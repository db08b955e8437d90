"""Pruners: observers of an evaluation that raise PrunedError to end it.

A pruner is a class here and its line in `pruners`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation import Observer
from search.board.ranking import least_likelihood
from search.errors import PrunedError
from search.space.sections import SearchSection
from search.study.record import TrialRecord


def pruners(settings: SearchSection, records: Sequence[TrialRecord]) -> list[Observer]:
    """Return new pruners for one evaluation of a trial.

    Args:
        settings: say which pruners a search uses.
        records: what the search knows when the trial begins.
    """
    least = least_likelihood(records, settings.prune_margin)
    return [] if least is None else [LikelihoodPruner(least)]


class LikelihoodPruner(Observer):
    """Prunes a candidate that finds the reference completions too unlikely.

    All references are read together with the prompts, so a pruned candidate costs only one or two passes.

    Args:
        least: the minimum of their mean log-likelihood, in nats per token.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._known: list[float] = []

    def on_likelihood(self, task_id: str, log_likelihood: float, done: int, total: int) -> None:  # noqa: ARG002
        """Raise PrunedError if all likelihoods are known and their mean is too low."""
        self._known.append(log_likelihood)
        if done < total:
            return
        mean = sum(self._known) / total
        if not mean >= self._least:  # also true of NaN
            has = "not finite" if math.isnan(mean) else f"{mean:.2f} nats/token"
            reason = f"mean log-likelihood of the reference completions is {has} (minimum {self._least:.2f})"
            raise PrunedError(reason, mean)
