"""A search ends by the first of its rules, and says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from search.space.sections import StopSection
from search.stopping import SearchSoFar, ended_by
from search.study.looks import Look, Looks
from search.study.record import TrialRecord
from tests.search.records import SPLITS, parent, trial

PARENT = parent(0, "/models/a", {0}, range(4))


def end(records: Sequence[TrialRecord], trials: int = 100, is_late: bool = False, **stop: object) -> str:
    looks = Looks(trials, (Look(4, 0.005, (1,)),))
    return ended_by(SearchSoFar(records, SPLITS, looks, trials, is_late), StopSection.model_validate(stop))


def trials(*passed: int) -> list[TrialRecord]:
    return [PARENT, *(trial(number, range(count)) for number, count in enumerate(passed))]


def test_a_search_goes_on_while_no_rule_holds() -> None:
    assert end(trials(5, 5, 5), patience=5, target=0.9) == ""


def test_a_proof_ends_it_if_that_is_asked_for() -> None:
    records = [PARENT, trial(0, {3}), trial(1, range(5), range(20))]
    assert end(records) == "proven at trial 1"
    assert end(records, proven=False) == ""


def test_enough_trials_end_it_and_those_that_failed_count() -> None:
    assert end([*trials(1, 1), trial(2, None)], trials=3) == "all trials are over"
    running = replace(trial(2, {0}), search=replace(trial(2, {0}).search, state="running"))
    assert end([*trials(1, 1), running], trials=3) == ""


def test_time_ends_it() -> None:
    assert end(trials(1), is_late=True) == "time is over"


def test_a_target_ends_it() -> None:
    assert end(trials(3, 7, 8), target=0.7) == "target reached at trial 1 (70.0%)"


@pytest.mark.parametrize(
    ("passed", "improvement", "ends"),
    [
        ((5, 5, 5, 5), 0.0, True),
        ((5, 5, 5, 6), 0.0, False),
        ((5, 5, 5, 6), 0.15, True),
        ((5, 5, 6, 7), 0.15, False),  # two small steps make a large one
        ((1, 2, 3, 4), 0.0, False),
        ((5, 4, 3), 0.0, False),
    ],
)
def test_patience_ends_it(passed: Sequence[int], improvement: float, ends: bool) -> None:
    found = end(trials(*passed), patience={"trials": 3, "improvement": improvement})
    assert bool(found) == ends
    if ends:
        by = " by 15 points" if improvement else ""
        assert found == f"out of patience: none of 3 trials was better{by} than trial 0"


def test_trials_of_an_earlier_search_do_not_wear_patience_out_but_are_to_be_surpassed() -> None:
    old = [trial(n, range(count), proposed_by=f"taken over: trial {n} of x") for n, count in enumerate((5, 4, 3, 2))]
    assert not end([PARENT, *old], patience=3)
    new = [trial(number, range(4)) for number in range(4, 7)]
    assert end([PARENT, *old, *new], patience=3) == "out of patience: none of 3 trials was better than trial 0"


def test_failed_trials_wear_patience_out() -> None:
    assert end([*trials(5), *(trial(number, None) for number in range(1, 4))], patience=3)


def test_several_objectives_end_by_trials_and_time_only() -> None:
    records = [replace(record, search=replace(record.search, scores=(0.5, 0.5))) for record in trials(9, 1, 1)]
    assert end(records, patience=1, target=0.1) == ""
    assert end(records, trials=3) == "all trials are over"
    assert end(records, is_late=True) == "time is over"
