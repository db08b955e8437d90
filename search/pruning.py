"""Pruners: observers of an evaluation that end it where a candidate will not do."""

from __future__ import annotations

from evaluation import Observer
from search.errors import PrunedError


class LikelihoodPruner(Observer):
    """Prunes a candidate that finds the reference completions too unlikely.

    All references are read with the prompts, so a pruned candidate has cost one or two passes.

    Args:
        least: the minimum of their mean log-likelihood, in nats per token.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._known: list[float] = []

    def on_likelihood(self, task_id: str, log_likelihood: float, done: int, total: int) -> None:  # noqa: ARG002
        """Raise PrunedError if all likelihoods are known and their mean is too low."""
        self._known.append(log_likelihood)
        if done == total:
            mean = sum(self._known) / total
            if not mean >= self._least:  # NaN is not
                raise PrunedError(mean, self._least)
