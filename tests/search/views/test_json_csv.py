"""Other programs read the leaderboard as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

import pytest
from scipy.stats import binomtest

from search.study.record import TrialRecord
from search.views.json_csv import leaderboard_csv, leaderboard_json
from tests.search.records import ON_REPORT, ON_SEARCH, board


def test_json_has_the_documented_keys() -> None:
    read = json.loads(leaderboard_json(board()))
    assert read.keys() == {"study", "verdict", "evidence", "best", "optimism", "rows"}
    assert (read["study"], read["best"], read["verdict"]) == ("run", 1, "not proven")
    assert read["evidence"] == {
        "sentence": board().verdict.sentence, "trial": 1, "parent": "/models/b", "points": pytest.approx(0.4),
        "p_value": pytest.approx(2 * binomtest(11, 14, alternative="greater").pvalue), "needed": 0.02,
    }  # fmt: skip
    assert read["optimism"] == pytest.approx(8 / ON_SEARCH - 16 / ON_REPORT)
    for found in read["rows"]:
        assert found.keys() == {
            "kind", "name", "trial", "state", "search_score", "search_scores", "log_likelihood", "report_score",
            "report_interval", "report_scores", "won", "lost", "compared_on", "p_value", "seconds", "recipe",
            "parameters", "on_front", "same_as", "proposed_by", "error",
        }  # fmt: skip
    first = read["rows"][0]
    assert (first["kind"], first["trial"], first["seconds"]) == ("trial", 1, 1.5)
    assert first["recipe"]["merge_method"] == "ties"
    assert (first["compared_on"], first["parameters"]["models[0].parameters.density[0]"]) == ("report", 0.26)
    assert read["rows"][-1]["error"].startswith("merged tensor lm_head.weight")
    assert {found["kind"] for found in read["rows"]} == {"parent", "average", "trial"}
    assert {found["state"] for found in read["rows"]} == {"complete", "failed"}
    assert {found["trial"] for found in read["rows"] if found["kind"] != "trial"} == {None}


def test_csv_has_a_column_per_searched_parameter() -> None:
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board()))))
    assert [row["name"] for row in rows] == [row.name for row in board().rows]
    assert float(rows[0]["models[0].parameters.density[0]"]) == 0.26
    assert rows[1]["models[0].parameters.density[0]"] == rows[1]["trial"] == ""
    low, high = board().rows[0].report_interval or (None, None)
    assert (rows[0]["report_low"], rows[0]["report_high"]) == (str(low), str(high))
    assert (rows[0]["won"], rows[0]["lost"], rows[0]["compared_on"]) == ("11", "3", "report")
    assert rows[-1]["error"].startswith("merged tensor lm_head.weight")


def test_both_keep_to_the_best_trials_and_the_reference_models() -> None:
    assert len(json.loads(leaderboard_json(board(), 1))["rows"]) == 5
    assert len(list(csv.DictReader(io.StringIO(leaderboard_csv(board(), 1))))) == 5


def test_before_any_trial_there_are_no_rows() -> None:
    empty = board(TrialRecord("trial", 0))
    read = json.loads(leaderboard_json(empty))
    assert (read["study"], read["best"], read["optimism"], read["rows"]) == ("run", None, None, [])
    assert (read["verdict"], read["evidence"]["trial"]) == ("not proven", None)
    assert len(leaderboard_csv(empty).splitlines()) == 1
