"""Counts in words: one thing is no plural."""

from __future__ import annotations

import pytest

from search.counts import counted


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 trials are"), (1, "1 trial is"), (2, "2 trials are"), (20000, "20,000 trials are")]
)
def test_a_verb_follows_the_number(count: int, told: str) -> None:
    assert counted(count, "trial is", "trials are") == told


def test_a_plural_has_an_s() -> None:
    assert [counted(count, "new problem") for count in (1, 2)] == ["1 new problem", "2 new problems"]
