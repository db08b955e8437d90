"""The leaderboard says who passes what, how sure that is, and nothing that it does not know."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from search.board.leaderboard import Leaderboard
from search.study.looks import Looks
from search.study.outcomes import Split
from search.study.record import Scoring, TrialRecord
from tests.search.records import ON_REPORT, ON_SEARCH, RECORDS, board, row, scored, trial


def test_rows_are_best_first_and_of_equals_the_parents_and_then_the_earlier() -> None:
    names = [row.name for row in board().rows]
    assert names == ["trial 1", "/models/b", "trial 0", "/models/a", "average", "trial 3", "/models/base", "trial 2"]
    assert (board().best, board().best_parent, board().study) == (1, "/models/b", "run")
    assert board().best_row == board().rows[0]


def test_intervals_and_tests_are_those_of_scipy() -> None:
    best = row(board(), "trial 1")
    interval = binomtest(16, 20).proportion_ci(method="wilson")
    assert best.record.on("report").score == 0.8
    assert best.report_interval == pytest.approx((interval.low, interval.high))
    # Passed by the best parent: 0-7; by the trial: 2, 4-18.
    assert (best.won, best.lost, best.compared_on) == (11, 3, "report")
    assert best.p_value == pytest.approx(binomtest(11, 14).pvalue)


def test_a_trial_that_is_no_finalist_is_compared_on_the_search_split_without_a_test() -> None:
    third = row(board(), "trial 3")
    assert (third.won, third.lost, third.compared_on, third.p_value) == (1, 4, "search", None)
    assert (third.record.on("report").score, third.report_interval) == (None, None)


def test_the_best_parent_is_not_compared_with_itself() -> None:
    parent = row(board(), "/models/b")
    assert (parent.won, parent.lost, parent.compared_on, parent.p_value) == (0, 0, None, None)


def test_the_best_parent_is_chosen_by_the_search_split() -> None:
    records = [scored("parent", 0, {0}, range(20), name="a"), scored("parent", 1, {0, 1}, {0}, name="b")]
    assert board(*records).best_parent == "b"


def test_without_a_parent_that_has_a_score_nothing_is_compared() -> None:
    found = board(TrialRecord("parent", 0, "a", search=Scoring("failed")), trial(0, {0}, {0}))
    assert found.best_parent is None
    assert [(row.won, row.lost, row.compared_on) for row in found.rows] == [(0, 0, None)] * 2


def test_a_failed_trial_is_last_and_has_its_reason() -> None:
    failed = board().rows[-1]
    assert (
        failed.record.search.state,
        failed.record.search.score,
        failed.record.on("report").score,
        failed.compared_on,
    ) == ("failed", None, None, None)
    assert failed.record.search.error == "merged tensor lm_head.weight holds NaN\nand more"


def test_optimism_is_that_of_the_best_trial() -> None:
    assert board().optimism == pytest.approx(8 / ON_SEARCH - 16 / ON_REPORT)
    assert board(*RECORDS[:4]).optimism is None


def test_several_problem_sets_have_a_score_each_and_the_front_is_marked() -> None:
    split = Split(1, (("one", 1.0, 4), ("two", 3.0, 6)))
    of_sets = {0: "ppppffffff", 1: "pfffpppfff", 2: "pfffppffff"}
    records = [replace(trial(number, ()), search=scoring_of(outcomes, split)) for number, outcomes in of_sets.items()]
    found = Leaderboard.of("run", [*RECORDS[:1], *records], {"search": split, "report": split}, Looks())
    assert row(found, "trial 1").search_scores == {"one": 0.25, "two": 0.5}
    assert row(found, "trial 1").report_scores == {}
    assert {row.name: row.on_front for row in found.rows} == {
        "/models/a": None, "trial 0": True, "trial 1": True, "trial 2": False,
    }  # fmt: skip


def scoring_of(outcomes: str, split: Split) -> Scoring:
    scores = tuple(split.scores(outcomes).values())
    return Scoring("complete", outcomes, (scores[0] + 3 * scores[1]) / 4, scores)


def test_top_keeps_the_reference_models() -> None:
    names = [row.name for row in board().top(1)]
    assert names == ["trial 1", "/models/b", "/models/a", "average", "/models/base"]
    assert [row.name for row in board().top(0)] == names[1:]
    assert board().top(None) == board().rows


def test_before_any_trial_there_is_no_best() -> None:
    found = board(TrialRecord("trial", 0, search=Scoring("running")), TrialRecord("parent", 0))
    assert (found.best, found.best_parent, found.optimism, found.best_row, found.rows) == (None, None, None, None, ())


@pytest.mark.slow
def test_many_trials_are_ranked_at_once() -> None:
    first = RECORDS[4]
    many = [*RECORDS, *(replace(first, number=number) for number in range(10, 20_000))]
    began = time.process_time()
    assert len(board(*many).rows) == len(many) - 1
    assert time.process_time() - began < 10
