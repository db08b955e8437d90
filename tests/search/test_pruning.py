"""A candidate that finds the reference completions too unlikely is pruned, at the moment when that is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from search.errors import PrunedError
from search.pruning import LikelihoodPruner


def heard(pruner: LikelihoodPruner, likelihoods: Sequence[float]) -> int:
    """Let a pruner hear of likelihoods until it raises; return of how many."""
    for done, likelihood in enumerate(likelihoods, 1):
        try:
            pruner.on_likelihood(f"toy/{done}", likelihood, done, len(likelihoods))
        except PrunedError:
            return done
    return len(likelihoods) + 1


@pytest.mark.parametrize(("least", "kept"), [(-2.0, True), (-1.99, False), (-math.inf, True), (0.0, False)])
def test_the_mean_decides_once_all_references_are_read(least: float, kept: bool) -> None:
    assert heard(LikelihoodPruner(least), [-1.0, -4.0, -1.0]) == (4 if kept else 3)


@pytest.mark.parametrize("likelihoods", [[math.nan], [-1.0, math.nan, -1.0]])
def test_what_is_not_finite_is_pruned_whatever_the_minimum(likelihoods: list[float]) -> None:
    assert heard(LikelihoodPruner(-math.inf), likelihoods) == len(likelihoods)


def test_the_error_says_what_was_found_and_what_was_wanted() -> None:
    with pytest.raises(PrunedError) as caught:
        LikelihoodPruner(-0.8).on_likelihood("toy/1", -1.234, 1, 1)
    assert str(caught.value) == "mean log-likelihood of the reference completions is -1.23 nats/token (minimum -0.80)"
    assert caught.value.log_likelihood == -1.234
    with pytest.raises(PrunedError, match=r"is not finite \(minimum -0.80\)"):
        LikelihoodPruner(-0.8).on_likelihood("toy/1", math.nan, 1, 1)
