"""Replayed searches prove what is there, and seldom what is not; the benchmark prints how often."""

from __future__ import annotations

from scipy.stats import binom

from tests.benchmarks.verdicts import Replay, World, claims


def test_where_no_merge_is_better_a_search_rarely_says_so() -> None:
    replays = 40
    false = sum(wrong for _, wrong in claims(World("no gain", 60, trials=(10, 20)), replays))
    assert false <= binom.ppf(0.99, replays, 0.05)


def test_a_large_gain_is_proven_and_the_trial_that_is_named_has_it() -> None:
    found = list(claims(World("gain", 100, gain=0.28, good=0.3, trials=(20,)), 10))
    assert found == [(True, False)] * 10


def test_a_search_that_proves_its_winner_ends_before_all_its_trials() -> None:
    replay = Replay(World("gain", 100, gain=0.28, good=0.5, trials=(40,)), 1)
    assert replay.run().ruling == "proven"
    assert replay.trials < 40
