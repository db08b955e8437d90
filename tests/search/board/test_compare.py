"""Two models are compared by the scores that the leaderboard and the report of `evaluate` give them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from evaluation.problems import Part
from evaluation.report import Outcome, Report
from search.board.compare import Scored, compare
from search.board.leaderboard import Leaderboard
from search.study.outcomes import Split
from search.study.record import Scoring, SplitName, TrialRecord
from search.views.json_csv import report_data
from tests.search.records import LOOKS, row

PARTS = (("hard", 3.0, 4), ("easy", 1.0, 12))
SPLITS: Mapping[SplitName, Split] = {"search": Split(1, PARTS, 16), "report": Split(1, PARTS, 16)}
TASKS: Mapping[SplitName, Sequence[str]] = {
    split: [f"{split}/{place}" for place in range(16)] for split in ("search", "report")
}
# A trial that is good at the hard set, and a parent that is good at the easy one.
TRIAL, PARENT = "pppf" + "p" * 3 + "f" * 9, "ffff" + "p" * 11 + "f"


def scoring(outcomes: str) -> Scoring:
    groups = SPLITS["report"].groups(outcomes)
    score = (3 * groups[0].mean + groups[1].mean) / 4
    return Scoring("complete", outcomes, score, (score,))


RECORDS = (
    TrialRecord("parent", 0, "a", search=scoring(PARENT), report=scoring(PARENT)),
    TrialRecord("trial", 0, search=scoring(TRIAL), report=scoring(TRIAL)),
)


def recorded(record: TrialRecord) -> Scored:
    return Scored.of_record(record.key, record, SPLITS, TASKS)


def report(outcomes: str, weight: float = 3.0) -> Report:
    tasks = TASKS["report"]
    samples = {
        task: (Outcome(task, sign == "p", "passed" if sign == "p" else "failed", "", "", 0),)
        for task, sign in zip(tasks, outcomes, strict=True)
    }
    return Report(
        "both", "completion", samples, (Part("hard", weight, (*tasks[:4],)), Part("easy", 1.0, (*tasks[4:],))), 1, 1
    )


def reported(name: str, of: Report) -> Scored:
    return Scored.of_report(name, json.loads(json.dumps(report_data(of))))


def test_records_have_the_scores_and_intervals_of_the_leaderboard_whatever_the_weights_of_sets() -> None:
    board = Leaderboard.of("run", RECORDS, SPLITS, LOOKS)
    found = compare(recorded(RECORDS[1]), recorded(RECORDS[0]))
    for place, record in enumerate(reversed(RECORDS)):
        assert found.scores[place] == pytest.approx(record.on("report").score)
        assert found.intervals[place] == row(board, ["trial 0", "a"][place]).report_interval
    assert found.scores[0] > found.scores[1]  # though it solves fewer problems
    assert len(found.test.won) < len(found.test.lost)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_reports_have_the_scores_and_intervals_that_they_say(weight: float) -> None:
    both = report(TRIAL, weight), report(PARENT, weight)
    found = compare(reported("one", both[0]), reported("other", both[1]))
    assert found.scores == pytest.approx([each.pass_at_1 for each in both])
    assert found.intervals == tuple(each.interval for each in both)


def test_a_report_of_one_set_weighs_all_problems_alike() -> None:
    single = replace(report(TRIAL), parts=())
    found = compare(reported("one", single), reported("other", replace(report(PARENT), parts=())))
    assert found.scores == pytest.approx([6 / 16, 11 / 16])


def test_a_set_of_which_both_splits_are_compared_counts_as_one() -> None:
    both = [replace(record, report=None) for record in RECORDS]
    tasks = TASKS["search"] + TASKS["report"]
    whole = Scored("whole", {"": dict.fromkeys(tasks, 1.0)})
    halves = Scored.of_record("halves", RECORDS[0], SPLITS, TASKS)
    assert compare(halves, whole).scores == pytest.approx((RECORDS[0].search.score, 1.0))
    assert compare(halves, recorded(both[1])).split == "search"


def test_the_weights_of_the_first_count_where_the_two_differ() -> None:
    trial, other = recorded(RECORDS[1]), reported("other", report(TRIAL, weight=1.0))
    assert compare(trial, other).scores == pytest.approx([RECORDS[1].search.score] * 2)
    assert compare(other, trial).scores == pytest.approx([(3 / 4 + 3 / 12) / 2] * 2)


def test_several_sets_that_a_report_does_not_name_are_refused() -> None:
    data = {key: value for key, value in report_data(report(TRIAL)).items() if key != "sets"}
    with pytest.raises(KeyError):
        Scored.of_report("old", data)
