"""What a search could prove is what it does prove, as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation import p_better
from search import SearchConfig
from search.board.power import least_gain, parents_discordance, power, power_line, what_is_provable
from tests.search.family import Family
from tests.search.records import RECORDS, SPLITS, parent


@pytest.mark.parametrize(("problems", "gain", "discordance"), [(82, 0.2, 0.3), (150, 0.12, 0.3), (150, 0.2, 0.5)])
def test_power_is_how_often_drawn_outcomes_are_significant(problems: int, gain: float, discordance: float) -> None:
    random, tries, alpha = np.random.default_rng(0), 2000, 0.01
    won, lost, _ = random.multinomial(
        problems, [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance], tries
    ).T
    found = sum(significant(w, w + n, alpha) for w, n in zip(won.tolist(), lost.tolist(), strict=True)) / tries
    assert found == pytest.approx(power(problems, gain, discordance, alpha), abs=0.03)


def significant(won: int, discordant: int, alpha: float) -> bool:
    mine = {str(index): float(index < won) for index in range(discordant)}
    return p_better(mine, {index: 1 - rate for index, rate in mine.items()}) <= alpha


def test_without_a_gain_power_is_at_most_the_level() -> None:
    assert 0 < power(150, 0.0, 0.3, 0.05) <= 0.05
    assert power(0, 0.0, 0.3, 0.05) == 0.0


def test_with_wins_only_power_is_that_of_enough_wins() -> None:
    assert binomtest(7, 7, alternative="greater").pvalue < 0.01 < binomtest(6, 6, alternative="greater").pvalue
    assert power(7, 1.0, 0.0, 0.01) == 1.0
    assert power(6, 1.0, 0.0, 0.01) == 0.0


def test_the_least_gain_is_proven_in_8_of_10_searches_and_no_lesser_one() -> None:
    found = least_gain(500, 0.3, 0.01)
    assert found is not None
    assert power(500, found, 0.3, 0.01) >= 0.8 > power(500, found - 0.001, 0.3, 0.01)
    assert least_gain(5, 0.3, 0.01) is None


def test_the_parents_discordance_is_the_mean_over_the_others() -> None:
    parents = [parent(0, "a", range(5)), parent(1, "b", {0}), parent(2, "c", {9})]
    assert parents_discordance(parents, SPLITS["search"]) == pytest.approx((0.4 + 0.6) / 2)
    assert parents_discordance(parents[:1], SPLITS["search"]) is None
    assert parents_discordance(RECORDS, SPLITS["search"]) == pytest.approx((0.2 + 0.4) / 2)


def test_the_line_says_what_it_assumes() -> None:
    assert power_line(500, 0.01) == (
        "500 report problems prove, in 8 of 10 searches, a merge that solves 7.9 points more than any parent "
        "(if it differs from each on 30% of them)"
    )
    assert "on 44% of them, as the parents do; with mbpp+ added, " in power_line(82, 0.01, 0.44, 189)
    assert "40 report problems" in (line := power_line(40, 0.01, 0.05))
    assert line.endswith("solves 21.9 points more than any parent (if it differs from each on 22% of them)")
    assert "too few" in power_line(4, 0.01)
    assert power_line(1, 0.01).startswith("the report split has 1 problem, which is")


def test_what_is_provable_follows_from_the_config_and_the_level(shared_family: Family) -> None:
    config = SearchConfig.parse(shared_family.config(), folder=shared_family.folder)  # of two finalists
    assert what_is_provable(config, 500, 0.02, 0.4) == power_line(500, 0.01, 0.4)
    assert "nothing is proven" in what_is_provable(config, 500, 0.0)
    assert not what_is_provable(config, 0, 0.02)
    several = shared_family.config(search=", objectives: separate").replace("problems.jsonl", "[problems.jsonl, mbpp]")
    assert what_is_provable(SearchConfig.parse(several, folder=shared_family.folder), 500, 0.02).startswith("several")
