"""A record as flat names with numbers and texts."""

from __future__ import annotations

from search.callbacks.entries import entries, names_of_parents
from tests.search.records import SPLITS, parent, trial

PARENTS = [parent(0, "/models/a", [0]), parent(1, "/models/b", [1])]


def test_a_trial_has_its_score_its_proposer_its_seconds_and_parameters_that_are_named_after_parents() -> None:
    record = trial(3, [0, 1, 2], [0], proposed_by="ascent")
    names = names_of_parents(PARENTS)
    assert entries(record, "search", names, SPLITS) == {
        "search/state": "complete",
        "search/score": 0.3,
        "search/total seconds": 1.5,
        "proposed_by": "ascent",
        "parameters/a density 0": 0.28,
        "parameters/a density 1": 0.5,
        "parameters/b weight": 0.75,
    }
    report = {"report/state": "complete", "report/score": 0.05, "report/total seconds": 1.5}
    assert entries(record, "report", names, SPLITS) == report


def test_a_trial_that_failed_has_its_error_and_no_score() -> None:
    found = entries(trial(4, None), "search", names_of_parents(PARENTS), SPLITS)
    assert found["search/state"] == "failed"
    assert str(found["search/error"]).startswith("merged tensor lm_head.weight")
    assert "search/score" not in found
