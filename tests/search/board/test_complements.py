"""Candidates for parents side by side, against sets of problems and statsmodels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from evaluation.problems import Part
from evaluation.report import Outcome, Report
from search.board.complements import complements

_TASKS = [f"t/{number}" for number in range(12)]


def report(passed: Sequence[Sequence[bool]], parts: Sequence[Part] = ()) -> Report:
    """Return a report of problems whose samples passed or not."""
    samples = {
        task: tuple(Outcome(task, each, "passed" if each else "failed", "", "", 1) for each in own)
        for task, own in zip(_TASKS, passed, strict=False)
    }
    return Report("toys", "completion", samples, tuple(parts), 1.0, 1.0)


_SOLVED = st.lists(st.booleans(), min_size=12, max_size=12)


@given(st.lists(_SOLVED, min_size=1, max_size=4))
def test_what_models_solve_is_what_sets_of_problems_say(passed: list[list[bool]]) -> None:
    reports = {f"m{place}": report([[each] for each in own]) for place, own in enumerate(passed)}
    solved = {name: {task for task, rate in found.rates.items() if rate} for name, found in reports.items()}
    found = complements(reports)
    for name, own in solved.items():
        others = set[str]().union(*(tasks for other, tasks in solved.items() if other != name))
        assert set(found.alone[name]) == own - others
    assert found.any == pytest.approx(len(set[str]().union(*solved.values())) / 12)
    assert set(found.unsolved) == set(_TASKS).difference(*solved.values())
    assert len(found.pairs) == len(reports) * (len(reports) - 1) // 2
    for pair in found.pairs:
        mine, theirs = (solved[name] for name in pair.names)
        assert pair.either == pytest.approx(len(mine | theirs) / 12)
        assert pair.gain == pytest.approx((len(mine | theirs) - max(len(mine), len(theirs))) / 12)
        assert (set(pair.test.won), set(pair.test.lost)) == (mine - theirs, theirs - mine)
        assert len(mine) >= len(theirs)
        both, neither = len(mine & theirs), 12 - len(mine | theirs)
        table = [[both, len(mine - theirs)], [len(theirs - mine), neither]]
        assert pair.test.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    gains = [pair.gain for pair in found.pairs]
    assert gains == sorted(gains, reverse=True)


def test_sets_keep_their_weights_and_of_several_samples_the_higher_rate_counts() -> None:
    parts = [Part("one", 3.0, ("t/0",)), Part("two", 1.0, ("t/1", "t/2"))]
    one = report([[True, False], [True, True], [False, False]], parts)
    two = report([[False, False], [False, True], [True, True]], parts)
    found = complements({"one": one, "two": two})
    (pair,) = found.pairs
    assert pair.names == ("one", "two")
    assert pair.either == pytest.approx((3 * 0.5 + 1.0) / 4)
    assert pair.gain == pytest.approx(pair.either - one.pass_at_1)
    assert found.alone == {"one": ["t/0"], "two": ["t/2"]}
