"""A sparkline shows which numbers are high."""

from __future__ import annotations

import pytest

from search.views.sparkline import best_of_each, sparkline


@pytest.mark.parametrize(("blocks", "shown"), [(True, "▁▅█x▁█"), (False, "_=#x_#")])
def test_a_number_is_as_high_as_it_is_between_the_lowest_and_the_highest(blocks: bool, shown: str) -> None:
    assert sparkline([0.2, 0.51, 0.8, None, -9.0, 9.0], 0.2, 0.8, blocks=blocks) == shown


def test_equal_numbers_are_equally_high_and_none_are_none() -> None:
    assert sparkline([0.5, 0.5], 0.5, 0.5) == "▁▁"
    assert sparkline([], 0.0, 1.0) == ""


def test_what_is_too_wide_keeps_the_best_of_each_few() -> None:
    assert best_of_each([0.1, 0.4, None, None, 0.3], 3) == ([0.4, None, 0.3], 2)
    assert best_of_each([0.1, None], 5) == ([0.1, None], 1)
    assert best_of_each([], 5) == ([], 1)
    assert len(best_of_each([0.5] * 500, 60)[0]) <= 60
