"""The looks at the report split never cost more than alpha, however a search goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.looks import ALPHA, Look, Looks


def made(looks: Looks, *due: int | None) -> Looks:
    """Return the looks after some more, of a trial each."""
    for when in due:
        looks = replace(looks, made=(*looks.made, Look(when, looks.alpha(when), (len(looks.made),))))
    return looks


@given(st.integers(1, 2000), st.lists(st.one_of(st.none(), st.integers(1, 3000)), max_size=30))
def test_the_parts_never_sum_up_to_more_than_alpha(planned: int, counts: list[int | None]) -> None:
    looks, over = Looks(planned), 0
    for count in counts:
        over = over if count is None else max(over, count)
        due = None if count is None else looks.due(over)
        if count is None or due is not None:
            looks = made(looks, due)
    assert all(look.alpha > 0 for look in looks.made)
    assert sum(look.alpha for look in looks.made) < ALPHA


def test_looks_are_planned_at_numbers_of_trials_that_grow() -> None:
    assert Looks(100).times == (4, 10, 25, 62)
    assert Looks(500).times == (4, 10, 25, 62, 156, 391)
    assert Looks(3).times == ()


def test_what_a_look_leaves_goes_to_the_next() -> None:
    assert [look.alpha for look in made(Looks(40), 4, 10, 25).made] == pytest.approx([0.005] * 3)
    assert [look.alpha for look in made(Looks(40), 25).made] == pytest.approx([0.015])


def test_most_of_alpha_is_kept_for_the_end_and_each_further_look_takes_half() -> None:
    assert [look.alpha for look in made(Looks(40), 4, 10, 25, None, 62, None).made[3:]] == pytest.approx(
        [0.0175, 0.00875, 0.004375]
    )
    assert Looks(40).at_end(40) == pytest.approx(0.0175)
    assert made(Looks(40), 4, 10, 25).at_end(40, over=40) == pytest.approx(0.0175)
    assert made(Looks(40), 25, None).at_end(40, over=40) == pytest.approx(0.00875)


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=12), st.booleans())
def test_no_end_costs_less_than_was_said(planned: int, plan: list[tuple[int, bool]], inherits: bool) -> None:
    looks, over = Looks(planned, (Look(None, 0.02, ()),) * inherits), 0
    said: list[tuple[int, float]] = []
    for more, is_end in plan:
        if is_end:
            assert all(looks.alpha(None) >= least - 1e-12 for trials, least in said if over <= trials)
            looks, said = made(looks, None), []
        said.append((over + more, looks.at_end(over + more, over)))
        over += more
        if (due := looks.due(over)) is not None:
            looks = made(looks, due)


def test_what_earlier_searches_spent_is_not_there_to_be_planned_with() -> None:
    looks = Looks(40, (Look(None, 0.02, ()),))
    assert looks.budget == pytest.approx(0.03)
    assert [look.alpha for look in made(looks, 4, 10, 25, None).made[1:]] == pytest.approx([0.003] * 3 + [0.0105])
    assert looks.at_end(40) == pytest.approx(0.0105)


def test_a_search_whose_time_was_over_goes_on_to_pay_from_what_is_left() -> None:
    assert [look.alpha for look in made(Looks(500), 4, None, 10).made[1:]] == pytest.approx([0.02375, 0.011875])


def test_a_look_is_due_once_and_after_a_later_one_no_more() -> None:
    assert [Looks(100).due(over) for over in (0, 3, 4, 9, 10, 61, 62)] == [None, None, 4, 4, 10, 25, 62]
    assert [made(Looks(100), 10).due(over) for over in (4, 10, 24, 25)] == [None, None, None, 25]
    assert made(Looks(100), None).due(4) == 4
