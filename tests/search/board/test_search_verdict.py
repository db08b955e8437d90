"""A trial is proven if it is better than every parent where the search has not looked, and not by many tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from search.board.leaderboard import Leaderboard
from search.board.search_verdict import (
    SearchVerdict,
    against_parents,
    holm,
    last_look,
    next_look,
    proven,
    search_verdict,
    unscored,
)  # fmt: skip
from search.study.looks import ALPHA, SPENT, Look, Looks
from search.study.outcomes import Split
from search.study.record import Scoring, State, TrialRecord
from tests.search.records import ON_REPORT, ON_SEARCH, SPLITS, parent, scoring, trial

A = parent(0, "/models/a", {0}, range(4))
B = parent(1, "/models/b", {1}, range(6))


def at_end(*numbers: int, alpha: float = 0.02) -> Looks:
    return Looks(10, (Look(None, alpha, numbers),))


def verdict(records: Sequence[TrialRecord], looks: Looks | None = None) -> SearchVerdict:
    return search_verdict(records, SPLITS, looks or Looks(10))


def one_sided(won: int, lost: int) -> float:
    return float(binomtest(won, won + lost, alternative="greater").pvalue)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_correction_is_holms(count: int) -> None:
    from statsmodels.stats.multitest import multipletests  # half a second, for one test

    p_values = [value**3 for value in np.random.default_rng(count).random(count).tolist()]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_trial_is_tested_against_the_parent_that_is_hardest_to_beat() -> None:
    found = against_parents(trial(0, range(5), range(2, 20)), [A, B], "report", SPLITS["report"])
    # The trial alone passes 14 that b does not, and 16 that a does not; each of these passes 2 that it does not.
    assert found.parent == B
    assert found.p_value == pytest.approx(one_sided(14, 2))
    assert found.points == pytest.approx(12 / ON_REPORT)


def test_a_trial_that_beats_the_best_parent_but_not_every_one_is_not_proven() -> None:
    other = parent(2, "/models/c", {2}, range(6, 20))  # as bad as the others on the search split
    best = trial(0, range(5), {*range(10), *range(12, 20)})
    assert verdict([A, B, best], at_end(0)).ruling == "proven"
    assert verdict([A, B, other, best], at_end(0)).ruling == "not proven"


def test_proven_says_by_how_much_and_how_sure() -> None:
    found = verdict([A, B, trial(0, range(5), range(20))], at_end(0))
    assert (found.ruling, found.trial, found.parent, found.points) == ("proven", 0, "/models/b", pytest.approx(0.7))
    assert found.p_value == pytest.approx(0.5**14)
    assert found.needed == 0.02
    assert found.sentence == (
        "proven: trial 0 solves 70.0 points more of the report split than the closest parent, b (p = 6e-05)"
    )


def test_not_proven_says_what_was_needed() -> None:
    found = verdict([A, B, trial(0, range(5), range(10))], at_end(0, alpha=0.02))
    assert found.sentence == (
        "not proven: trial 0 solves 20.0 points more of the report split than the closest parent, b "
        "(p = 0.062; needed: 0.020)"
    )


def test_finalists_share_the_level_of_a_look() -> None:
    trials = [trial(0, range(5), range(12)), trial(1, range(4), range(5)), trial(2, range(3), range(5))]
    assert one_sided(6, 0) < 0.02 < 3 * one_sided(6, 0)
    assert verdict([A, B, *trials], at_end(0)).ruling == "proven"
    found = verdict([A, B, *trials], at_end(0, 1, 2))
    assert (found.ruling, found.trial, found.p_value) == ("not proven", 0, pytest.approx(3 * one_sided(6, 0)))
    assert "corrected for 3 finalists" in found.sentence


def test_the_trial_that_is_proven_counts_though_it_is_not_the_best_on_the_search_split() -> None:
    records = [A, B, trial(0, range(6), range(6)), trial(1, range(5), range(20))]
    found = verdict(records, at_end(0, 1))
    assert (found.ruling, found.trial) == ("proven", 1)
    assert proven(records, SPLITS, at_end(0, 1)) == [1]


def test_what_was_proven_stays_so() -> None:
    records = [A, B, trial(0, range(5), range(20)), trial(1, range(7), range(6))]
    looks = Looks(10, (Look(4, 0.005, (0,)), Look(None, 0.02, (1,)), Look(None, 0.0, (0, 1))))
    assert (verdict(records, looks).ruling, verdict(records, looks).trial) == ("proven", 0)


def test_without_a_trial_that_is_better_on_the_search_split_nothing_is_better() -> None:
    found = verdict([A, B, trial(0, {5}, range(20))])
    assert (found.ruling, found.trial) == ("no better", None)
    assert found.sentence == "no better: no trial solves more of the search split than the best parent, a"


def test_without_a_finalist_that_is_better_on_the_report_split_nothing_is_better() -> None:
    records = [A, B, trial(0, range(5), range(6)), trial(1, range(4), range(5))]
    found = verdict(records, at_end(0, 1))
    assert found.ruling == "no better"
    assert found.sentence.startswith("no better: trial 0 solves as much of the report split as the closest parent, b (")
    assert verdict([*records, trial(2, range(7))], at_end(0, 1)).ruling == "not proven"


def test_where_nothing_can_be_proven_the_reason_is_said() -> None:
    best = trial(0, range(5))
    no_report = {**SPLITS, "report": Split()}
    assert "no trial has a score" in verdict([A, B]).sentence
    assert "no parent has a score" in verdict([best]).sentence
    assert "trial 0, the best, is not tested on the report split yet" in verdict([A, best]).sentence
    assert "no problem is left in the report split" in search_verdict([A, best], no_report, Looks(10)).sentence
    several = replace(best, search=replace(best.search, scores=(0.5, 0.5)))
    assert "several objectives" in verdict([A, several]).sentence
    assert {verdict(records).ruling for records in ([A], [best], [A, best], [A, several])} == {"not proven"}


def test_a_look_that_is_not_over_has_shown_nothing() -> None:
    waiting = trial(0, range(5))
    look = at_end(0)
    assert verdict([A, B, waiting], look).ruling == "not proven"
    assert [record.key for record in unscored([A, replace(B, report=None), waiting], look.made[0])] == [
        "parent-1", "trial-0",
    ]  # fmt: skip


def test_a_model_that_failed_on_the_report_split_proves_nothing() -> None:
    best, failed = trial(0, range(5), range(20)), Scoring("failed", error="x")
    assert verdict([A, B, replace(best, report=failed)], at_end(0)).ruling != "proven"
    assert verdict([A, replace(B, report=failed), best], at_end(0)).ruling == "not proven"
    without_score = replace(B, search=failed, report=None)
    assert verdict([A, without_score, best], at_end(0)).ruling == "proven"


def test_a_model_that_could_not_be_scored_on_the_report_split_is_named() -> None:
    best, failed = trial(0, range(5), range(6)), Scoring("failed", error="x")
    for records, name in (
        ([A, B, replace(best, report=failed)], "trial 0"),
        ([A, replace(B, report=failed), best], "b"),
    ):
        assert verdict(records, at_end(0)) == SearchVerdict(
            "not proven", f"not proven: {name} could not be scored on the report split; run --retry-failed", 0
        )
    other = replace(trial(1, range(4)), report=failed)
    assert verdict([A, B, best, other], at_end(0, 1)).ruling == "not proven"


def test_nothing_is_tested_before_every_parent_is_scored() -> None:
    trials = [trial(number, range(9), range(20)) for number in range(4)]
    states: tuple[State, ...] = ("waiting", "running")
    for state in states:
        late = replace(B, search=Scoring(state), report=None)
        assert next_look([A, late, *trials], SPLITS, Looks(100)) is None
        assert last_look([A, late, *trials], SPLITS, Looks(100), 3) is None
        assert proven([A, late, *trials], SPLITS, at_end(0)) == []
        found = Leaderboard.of("run", [A, late, *trials], SPLITS, at_end(0)).verdict
        assert found.sentence == "not proven: trial 0, the best, is not tested on the report split yet"
    assert proven([A, B, *trials], SPLITS, at_end(0)) == [0]


def test_a_parent_that_failed_is_left_out_and_named() -> None:
    failed = replace(B, search=Scoring("failed", error="x"), report=None)
    trials = [trial(number, range(9), range(20)) for number in range(4)]
    assert next_look([A, failed, *trials], SPLITS, Looks(100)) is not None
    found = verdict([A, failed, *trials], at_end(0))
    assert (found.ruling, found.parent) == ("proven", "/models/a")
    assert found.sentence.endswith("; not compared with b: scoring failed")


def test_where_earlier_searches_spent_all_of_alpha_there_is_no_look_and_that_is_said() -> None:
    records = [A, B, *(trial(number, range(9), range(20)) for number in range(4))]
    spent = Looks(10, (Look(None, ALPHA, ()),))
    assert next_look(records, SPLITS, spent) is None
    assert last_look(records, SPLITS, spent, 3) is None
    found = verdict(records, spent)
    assert (found.ruling, found.trial) == ("not proven", 0)
    assert found.sentence == f"not proven: {SPENT}"


def test_weights_of_problem_sets_count_in_the_test() -> None:
    # 12 problems of the first set and 8 of the second, which weighs ten times as much.
    split = Split(1, (("one", 1.0, 12), ("two", 10.0, 8)), ON_REPORT)
    splits = {"search": SPLITS["search"], "report": split}
    better_on_the_light = trial(0, range(5), range(12))
    found = against_parents(better_on_the_light, [parent(0, "a", {0}, range(12, 20))], "report", split)
    assert found.points == pytest.approx(1 / 11 - 10 / 11)
    assert found.p_value > 0.9
    assert search_verdict([A, better_on_the_light], splits, at_end(0)).trial == 0


def ended(number: int, passed: range) -> TrialRecord:
    return trial(number, passed)


def test_a_look_is_made_at_the_best_trial_once_enough_are_over() -> None:
    plan, records = Looks(100), [A, B, *(ended(number, range(2)) for number in range(3)), ended(3, range(9))]
    assert next_look(records[:-1], SPLITS, plan) is None
    look = next_look(records, SPLITS, plan)
    assert look == Look(4, plan.alpha(4), (3,))
    again = replace(plan, made=(look,))
    more = [ended(number, range(2)) for number in range(4, 20)]
    assert next_look([*records, *more], SPLITS, again) is None  # of the same trial
    assert next_look([*records, *more, ended(20, range(10))], SPLITS, again) == Look(10, again.alpha(10), (20,))


def test_no_look_is_made_at_a_trial_that_the_search_split_finds_no_better() -> None:
    few = [ended(number, range(2)) for number in range(4)]
    assert one_sided(3, 0) > 0.05 > one_sided(7, 0)
    assert next_look([A, B, *few, ended(4, range(4))], SPLITS, Looks(100)) is None
    assert next_look([A, B, *few, ended(4, range(9))], SPLITS, Looks(100)) is not None
    assert next_look([*few, ended(4, range(9))], SPLITS, Looks(100)) is None  # without a parent


def test_no_look_is_made_where_it_could_prove_nothing() -> None:
    records = [A, B, *(ended(number, range(9)) for number in range(4))]
    assert next_look(records, {**SPLITS, "report": Split(problems=8)}, Looks(40)) is not None
    assert next_look(records, {**SPLITS, "report": Split(problems=7)}, Looks(40)) is None
    assert next_look(records, {**SPLITS, "report": Split()}, Looks(40)) is None


def test_the_last_look_tests_the_finalists_that_beat_every_parent() -> None:
    records = [A, B, trial(0, range(5)), trial(1, range(4)), trial(2, {7}), trial(3, range(3))]
    plan = Looks(10)
    look = last_look(records, SPLITS, plan, 3)
    assert look == Look(None, plan.alpha(None), (0, 1, 3))
    assert last_look(records, SPLITS, replace(plan, made=(look,)), 3) is None  # nothing new
    assert last_look([A, B, trial(2, {7})], SPLITS, plan, 3) is None
    assert last_look(records, {**SPLITS, "report": Split()}, plan, 3) is None


def test_after_a_proof_there_is_no_further_look() -> None:
    records = [A, B, trial(0, range(5), range(20)), trial(1, range(4), range(20))]
    assert last_look(records, SPLITS, Looks(10, (Look(4, 0.005, (0,)),)), 3) is None
    better = trial(2, range(8))
    assert last_look([*records, better], SPLITS, Looks(10, (Look(4, 0.005, (0,)),)), 3) is not None


def test_the_records_of_the_tests_have_as_many_problems_as_they_say() -> None:
    assert (SPLITS["search"].problems, SPLITS["report"].problems) == (ON_SEARCH, ON_REPORT)
    assert scoring(range(3), ON_SEARCH).score == 0.3
