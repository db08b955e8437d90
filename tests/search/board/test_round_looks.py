"""A confirmation proves what its rounds show together, at levels that are fixed before any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from search.board.leaderboard import Leaderboard
from search.board.round_looks import confirmation_ended, hindrance, is_refuted, round_look, rounds_over
from search.board.search_verdict import last_look, proven, search_verdict, unscored
from search.study.looks import ALPHA, Look, Looks
from search.study.outcomes import Split
from search.study.record import Scoring, SplitName, State, TrialRecord
from tests.search.records import SPLITS, parent, trial

PROBLEMS, ROUNDS = 10, 4
CONFIRM: Mapping[SplitName, Split] = {**SPLITS, "confirm": Split(ROUNDS, (), PROBLEMS)}
AFTER_ONE = Looks(10, (Look(None, 0.01, (0, 1)),))
A, B = parent(0, "/models/a", {0}, range(4)), parent(1, "/models/b", {1}, range(6))
TRIAL, OTHER = trial(0, range(5), range(7)), trial(1, range(4), range(7))


def in_rounds(record: TrialRecord, *rounds: Sequence[int], state: State = "waiting") -> TrialRecord:
    """Return a model that passed some of the problems in each of some rounds."""
    outcomes = "".join("p" if place in passed else "f" for passed in rounds for place in range(PROBLEMS))
    return replace(record, confirm=Scoring(state, outcomes, outcomes.count("p") / max(1, len(outcomes))))


def looked(records: Sequence[TrialRecord], looks: Looks = AFTER_ONE) -> Looks:
    """Return the looks after all that are due, at both trials."""
    while look := round_look(records, CONFIRM, looks, (0, 1)):
        looks = replace(looks, made=(*looks.made, look))
    return looks


@given(st.integers(1, 8), st.lists(st.sampled_from("pft"), min_size=1, max_size=6), st.integers(0, 99))
def test_rounds_are_read_as_samples_of_each_problem(rounds: int, codes: list[str], seed: int) -> None:
    grid = np.random.default_rng(seed).permuted(np.array([codes] * rounds), axis=1)  # (rounds, problems)
    how = Split(rounds, (), len(codes))
    assert how.of_rounds("".join(grid.flatten().tolist())) == "".join(grid.T.flatten().tolist())
    assert how.of_rounds("".join(grid.flatten().tolist())[:-1]) == ""


@given(st.integers(1, 30), st.floats(0, ALPHA))
def test_each_look_takes_twice_what_the_one_before_took_and_the_last_half_of_all(rounds: int, spent: float) -> None:
    looks = Looks(10, (Look(None, spent, (7,)),))
    for number in range(1, rounds + 1):
        look = Look(None, looks.at_round(number, rounds), (0,), number)
        looks = replace(looks, made=(*looks.made, look))
    parts = [look.alpha for look in looks.made[1:]]
    assert parts == pytest.approx([(ALPHA - spent) / 2 ** (rounds - place) for place in range(rounds)])
    assert 0 <= looks.left <= ALPHA - spent


def test_a_look_is_due_after_each_round_that_all_models_have_had() -> None:
    one = [in_rounds(A, range(4)), in_rounds(B, range(4)), in_rounds(TRIAL, range(5)), in_rounds(OTHER, ())]
    assert rounds_over(one, CONFIRM, (0, 1)) == 1
    look = round_look(one, CONFIRM, AFTER_ONE, (0, 1))
    assert look == Look(None, AFTER_ONE.left / 2**ROUNDS, (0, 1), 1)
    assert unscored(one, look) == []
    late = [*one[:3], OTHER]
    assert round_look(late, CONFIRM, AFTER_ONE, (0, 1)) is None
    ahead = [in_rounds(it, range(4), range(4), range(4)) for it in (A, B, TRIAL, OTHER)]
    assert [look.rounds for look in looked(ahead).made] == [None, 1, 2, 3]  # those that a killed worker left


def test_one_round_is_tested_as_mcnemar_does() -> None:
    records = [in_rounds(A, range(2)), in_rounds(B, range(1, 4)), in_rounds(TRIAL, range(10)), in_rounds(OTHER, ())]
    found = search_verdict(records, CONFIRM, looked(records))
    p_value = binomtest(7, 7, alternative="greater").pvalue
    assert (found.trial, found.parent, found.points) == (0, "/models/b", pytest.approx(0.7))
    assert found.p_value == pytest.approx(2 * p_value)  # Holm, over two finalists
    assert found.sentence.startswith(
        "not proven: trial 0 solves 70.0 points more of 10 problems than the closest parent"
    )


def test_several_rounds_are_tested_as_a_permutation_of_rates_does() -> None:
    generator = np.random.default_rng(3)
    chances = {"a": 0.3, "b": 0.4, "trial": 0.8, "other": 0.4}
    grids = {name: generator.random((3, PROBLEMS)) < chance for name, chance in chances.items()}

    def model(name: str, record: TrialRecord) -> TrialRecord:
        return in_rounds(record, *(np.flatnonzero(passed).tolist() for passed in grids[name]))

    records = [model("a", A), model("b", B), model("trial", TRIAL), model("other", OTHER)]
    look = Look(None, 0.01, (0,), 3)
    found = search_verdict(records, CONFIRM, replace(AFTER_ONE, made=(look,)))

    def difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(one.mean(axis=axis) - other.mean(axis=axis))

    expected = [
        permutation_test(
            (grids["trial"].mean(axis=0), grids[name].mean(axis=0)), difference, permutation_type="samples",
            alternative="greater", n_resamples=np.inf, vectorized=True,
        ).pvalue
        for name in ("a", "b")
    ]  # fmt: skip
    assert found.p_value == pytest.approx(max(expected))
    assert found.points == pytest.approx(min(grids["trial"].mean() - grids[name].mean() for name in ("a", "b")))
    assert "of 10 problems in 3 rounds than" in found.sentence


def test_a_confirmed_trial_is_proven_and_stays_so() -> None:
    records = [in_rounds(it, *[range(3)] * 4) for it in (A, B)]
    records += [in_rounds(TRIAL, range(9), *[range(10)] * 3), in_rounds(OTHER, *[range(3)] * 4)]
    looks = Looks(10, (Look(None, 0.03, (0, 1), 3),))
    found = search_verdict(records, CONFIRM, looks)
    assert found.ruling == "proven"
    assert found.sentence == (
        "proven: trial 0 solves 66.7 points more of 10 problems in 3 rounds than the closest parent, a "
        "(p = 0.016, corrected for 2 finalists)"
    )
    assert proven(records, CONFIRM, looks) == [0]
    assert round_look(records, CONFIRM, looks, (0, 1)) is None
    assert last_look(records, CONFIRM, looks, 3) is None
    assert confirmation_ended(records, CONFIRM, looks) == "proven at trial 0"
    later = replace(looks, made=(*looks.made, Look(None, 0.0, (0, 1), 4)))
    assert search_verdict(records, CONFIRM, later) == found


def test_without_a_report_split_a_confirmation_can_still_prove() -> None:
    splits = {**CONFIRM, "report": Split()}
    records = [replace(in_rounds(it, range(1)), report=None) for it in (A, B)]
    records += [replace(in_rounds(TRIAL, range(10)), report=None)]
    found = search_verdict(records, splits, Looks(10, (Look(None, 0.01, (0,), 1),)))
    assert (found.ruling, found.p_value) == ("proven", pytest.approx(0.5**9))


def test_a_confirmation_is_refuted_where_a_parent_is_better_than_each_finalist() -> None:
    models = [in_rounds(A, range(5)), in_rounds(B, range(2)), in_rounds(TRIAL, ()), in_rounds(OTHER, ())]
    assert binomtest(5, 5, alternative="greater").pvalue <= ALPHA < binomtest(4, 4, alternative="greater").pvalue
    assert not is_refuted(models, CONFIRM, AFTER_ONE)
    assert is_refuted(models, CONFIRM, looked(models))
    assert confirmation_ended(models, CONFIRM, looked(models)) == "refuted: a parent is better than each finalist"
    assert search_verdict(models, CONFIRM, looked(models)).ruling == "no better"
    undecided = [*models[:3], in_rounds(OTHER, {0})]
    assert not is_refuted(undecided, CONFIRM, looked(undecided))
    assert confirmation_ended(undecided, CONFIRM, looked(undecided)) == ""


def test_after_the_last_round_a_confirmation_ends() -> None:
    records = [in_rounds(it, *[range(4)] * ROUNDS) for it in (A, B, TRIAL, OTHER)]
    looks = looked(records)
    assert [look.rounds for look in looks.made] == [None, 1, 2, 3, 4]
    assert confirmation_ended(records, CONFIRM, looks) == ""  # a model is to be scored again
    over = [replace(it, confirm=replace(it.on("confirm"), state="complete")) for it in records]
    assert confirmation_ended(over, CONFIRM, looks) == "all rounds are over"
    assert sum(look.alpha for look in looks.made) < ALPHA


def test_a_failed_finalist_proves_nothing_and_a_failed_parent_ends_it() -> None:
    broken = in_rounds(OTHER, state="failed")
    models = [in_rounds(A, ()), in_rounds(B, ()), in_rounds(TRIAL, range(10)), broken]
    assert rounds_over(models, CONFIRM, (0, 1)) == 1
    assert hindrance(models, (0, 1)) is None
    found = search_verdict(models, CONFIRM, looked(models))
    assert (found.ruling, found.p_value) == ("proven", pytest.approx(2 * 0.5**10))
    assert hindrance([*models[:2], in_rounds(TRIAL, state="failed"), broken], (0, 1)) == broken
    lost = in_rounds(A, state="failed")
    assert hindrance([lost, *models[1:]], (0, 1)) == lost
    assert rounds_over([lost, *models[1:]], CONFIRM, (0, 1)) == 0


def test_a_look_at_an_end_after_a_confirmation_is_still_made_once() -> None:
    records = [in_rounds(it, range(4)) for it in (A, B, TRIAL, OTHER)]
    looks = looked(records, Looks(10))
    assert last_look(records, CONFIRM, looks, 3) == Look(None, looks.left / 2, (0, 1))


def test_a_leaderboard_says_what_was_confirmed_and_others_say_nothing() -> None:
    records = [in_rounds(it, range(4), range(5)) for it in (A, B, TRIAL, OTHER)]
    assert Leaderboard.of("run", records, CONFIRM, AFTER_ONE).confirmed_on == "10 problems in 2 rounds so far"
    assert Leaderboard.of("run", [A, B, TRIAL], SPLITS, AFTER_ONE).confirmed_on == ""
    assert Leaderboard.of("run", [A, B, TRIAL], SPLITS, AFTER_ONE).is_promising
    assert not Leaderboard.of("run", [A, B, trial(0, {0})], SPLITS, AFTER_ONE).is_promising
