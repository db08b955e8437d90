"""Who is best, on the front and a finalist: by the same rules wherever anybody asks."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.board.ranking import (
    best,
    best_parent,
    finalists,
    front,
    least_likelihood,
    merit,
    optimism,
    ranked,
    unreported,
)
from search.study.record import Kind, Scoring, State, TrialRecord


def record(
    kind: Kind, number: int = 0, score: float | None = None, likelihood: float | None = None, **more: Any
) -> TrialRecord:
    state: State = "failed" if score is None else "complete"
    scoring = Scoring(state, score=score, scores=() if score is None else (score,), log_likelihood=likelihood)
    return TrialRecord(kind, number, **{"recipe": {"of": f"{kind} {number}"}, "search": scoring} | more)


def trial(number: int, score: float | None = None, likelihood: float | None = None, **more: Any) -> TrialRecord:
    return record("trial", number, score, likelihood, **more)


def several(number: int, *scores: float) -> TrialRecord:
    mean = sum(scores) / len(scores)
    return trial(number, search=Scoring("complete", score=mean, scores=scores))


def reported(state: State, score: float | None = None) -> Scoring:
    return Scoring(state, score=score)


@given(st.randoms())
def test_of_equals_parents_come_first_then_the_likelier_then_the_earlier(shuffler: random.Random) -> None:
    in_order = [
        trial(7, 0.9, -3.0),
        record("parent", 0, 0.5, likelihood=-9.0),
        record("parent", 1, 0.5, likelihood=-1.0),  # how likely a parent is says nothing
        record("average", 0, 0.5),
        trial(4, 0.5, -0.5),
        trial(3, 0.5, -0.6),
        trial(6, 0.5, -0.6),
        trial(2, 0.5),
        record("parent", 2, 0.0),
        trial(0, None, -2.0),  # pruned
        trial(1),
        trial(5),
    ]
    mixed = list(in_order)
    shuffler.shuffle(mixed)
    assert ranked(mixed) == in_order
    assert best(mixed) == in_order[0]
    assert best_parent(mixed) == in_order[1]


def test_before_any_is_scored_there_is_no_best() -> None:
    records = [record("parent"), record("average", score=0.5), trial(0), TrialRecord("trial", 1)]
    assert best(records) is None
    assert best_parent(records) is None
    assert front(records) == frozenset()
    assert finalists(records, 3) == []


def test_a_score_of_zero_is_a_score() -> None:
    assert best([trial(0), trial(1, 0.0)]) == trial(1, 0.0)
    assert merit(trial(1, 0.0)) > merit(trial(0))


def test_finalists_are_the_best_of_different_recipes() -> None:
    same = {"of": "trial 2"}
    records = [trial(0, 0.2), trial(1, 0.8, recipe=same), trial(2, 0.9, recipe=same), trial(3), trial(4, 0.5)]
    assert [each.number for each in finalists(records, 2)] == [2, 4]
    assert [each.number for each in finalists(records, 9)] == [2, 4, 0]
    assert finalists(records, 0) == []


def test_finalists_are_those_of_the_front_first() -> None:
    records = [several(0, 0.5, 0.5), several(1, 0.6, 0.6), several(2, 1.0, 0.0), several(3, 0.6, 0.5)]
    assert front(records) == {1, 2}
    assert [each.number for each in finalists(records, 3)] == [1, 2, 3]


@given(st.integers(2, 3).flatmap(lambda size: st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * size))))
def test_the_front_is_optunas(values: list[tuple[float, ...]]) -> None:
    study = optuna.create_study(directions=["maximize"] * (len(values[0]) if values else 2))
    for scores in values:
        study.add_trial(optuna.trial.create_trial(values=scores))
    records = [several(number, *scores) for number, scores in enumerate(values)]
    assert front([*records, trial(len(values))]) == {each.number for each in study.best_trials}


def test_a_single_objective_has_no_front() -> None:
    assert front([trial(0, 0.5), trial(1, 0.75)]) == frozenset()


@given(st.permutations(range(4)))
def test_the_front_is_the_same_in_any_order(order: list[int]) -> None:
    records = [several(0, 0.5, 0.5), several(1, 0.5, 0.5), several(2, 0.4, 0.6), several(3, 0.4, 0.5)]
    assert front(records[index] for index in order) == {0, 1, 2}


def test_references_and_finalists_wait_for_the_report_split_until_they_are_over() -> None:
    records = [
        trial(0, 0.9, report=reported("complete", 0.8)),
        trial(1, 0.8),
        trial(2, 0.7, report=reported("running")),
        trial(3, 0.6),
        record("parent", 1, 0.5),
        record("parent", 0, 0.1),
        record("parent", 2, report=None),  # failed on the search split
        record("parent", 3, 0.4, report=reported("failed")),
        record("average", score=0.3),
    ]
    waiting = unreported(records, 3)
    assert [each.key for each in waiting] == ["parent-0", "parent-1", "average", "trial-1", "trial-2"]


def test_optimism_is_what_the_report_split_takes_away() -> None:
    assert optimism(trial(0, 0.8, report=reported("complete", 0.75))) == pytest.approx(0.05)
    assert optimism(trial(0, 0.8)) is None
    assert optimism(trial(0, 0.8, report=reported("failed"))) is None


def test_the_least_likelihood_is_a_margin_below_the_best_of_all_trials() -> None:
    records = [record("parent", 0, 0.5, -0.1), trial(0, 0.4, -2.0), trial(1, None, -1.5), trial(2)]
    assert least_likelihood(records, 0.25) == pytest.approx(-1.75)
    assert least_likelihood(records, None) is None
    assert least_likelihood(records[:1], 0.25) is None
