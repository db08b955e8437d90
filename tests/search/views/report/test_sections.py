"""The sections: each has the numbers of the records, and nothing where there is nothing to show."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from search.evidence import SearchEvidence
from search.study.record import Scoring, TrialRecord
from search.study.store import Workplace
from search.views.report.about import about, command, digest_of, machines
from search.views.report.history import history, interval_of, records_so_far
from search.views.report.importances import importances, parameter_labels, shares
from search.views.report.layers_section import layers
from search.views.report.leaderboard_section import leaderboard
from search.views.report.optimism import optimism
from search.views.report.page import SECTIONS, page
from search.views.report.parallel import parallel
from search.views.report.pareto import intervals_of_sets, pareto
from search.views.report.section import Section
from search.views.report.time import phases, spans, time
from search.views.report.verdict_section import verdict
from tests.search.records import RECORDS, SPLITS, board
from tests.search.views.report.conftest import Shown
from tests.search.views.report.ugly import CASES


def figure(section: Section | None, name: str) -> dict[str, Any]:
    assert section
    found: dict[str, Any] = section.data["figures"][name]
    return found


def trace(section: Section | None, name: str, called: str) -> dict[str, Any]:
    return next(each for each in figure(section, name)["data"] if each.get("name", "").startswith(called))


QUICK = ("no_trial", "no_parent", "all_failed", "no_report", "running")
REST = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_ugly_searches_have_a_page(shown: Shown, name: str) -> None:
    evidence = shown(name)
    text = page(evidence)
    for make in SECTIONS:
        section = make(evidence)
        assert section is None or f'<section id="{section.key}"' in text
    assert "<script>alert(1)</script>" not in text


def test_the_verdict_is_a_sentence(shown: Shown) -> None:
    evidence = SearchEvidence("run", Path("results/run"), board(), RECORDS, SPLITS)
    assert evidence.board.verdict.sentence in verdict(evidence).html.unescape()
    assert verdict(shown("no_parent")).html.lower().count("no trial") == 1
    assert "No trial is over yet." in verdict(shown("no_parent")).html
    assert verdict(shown("no_trial")).html.lower().count("no trial") == 1
    assert "9 trials (9 failed)" in verdict(shown("all_failed")).html
    assert "12 complete" not in verdict(shown("running")).html  # some failed


def test_the_leaderboard_has_a_row_for_each_model_that_is_over(shown: Shown) -> None:
    evidence = shown("three_objectives")
    html = leaderboard(evidence).html
    assert html.count("<tr") == 1 + len(evidence.board.records)
    assert all(f">{name}</th>" in html for name in ("set-0.jsonl", "set-1.jsonl", "set-2.jsonl"))
    assert html.count("Pareto front") == sum(row.on_front is True for row in evidence.board.rows)


def test_the_history_has_every_trial_once_and_the_best_so_far(shown: Shown) -> None:
    evidence = shown("eight_parents")
    section = history(evidence)
    over = [record for record in evidence.trials if record.is_over]
    names = {"ascent", "tpe", "warm start", "failed", "pruned"}
    points = [x for each in figure(section, "history")["data"] if each.get("name") in names for x in each["x"]]
    assert sorted(points) == [record.number for record in over]
    best = trace(section, "history", "best so far")
    scores = [record.search.score or 0.0 for record in over]
    assert best["y"][-1] == max(scores)
    assert best["y"] == sorted(best["y"])
    assert len([each for each in figure(section, "history")["data"] if each["mode"] == "lines"]) == 3 + 10
    assert history(shown("no_trial")) is None


def test_the_first_of_equal_trials_stays_the_best_so_far() -> None:
    scored = [
        TrialRecord("trial", n, search=Scoring("complete", "p", score)) for n, score in enumerate([0.5, 0.4, 0.5, 0.6])
    ]
    assert [record.number for record in records_so_far(scored)] == [0, 3]


def test_the_layers_are_a_panel_per_parent(shown: Shown, finished: Path) -> None:
    section = layers(shown("eight_parents"))
    assert section
    assert len(section.data["panels"]) == 8
    assert section.data["winner"] == str(shown("eight_parents").board.best)
    assert not section.data["hasLayers"]
    assert "not the layers" in section.html
    real = layers(SearchEvidence.open(finished))
    assert real
    assert real.data["hasLayers"]
    assert {len(line["values"]) for lines in real.data["trials"].values() for line in lines} == {3}
    assert layers(shown("all_failed")) is None


def test_a_parameter_that_decides_exceeds_chance_and_one_that_does_not_decide_does_not() -> None:
    draw = random.Random(0)
    kinds: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in ("decides", "other", "third")}
    trials = []
    for number in range(120):
        parameters = {name: draw.random() for name in kinds}
        score = 1 - abs(parameters["decides"] - 0.7)
        trials.append(
            TrialRecord("trial", number, parameters=parameters, search=Scoring("complete", "p", score, (score,)))
        )
    found = {each.parameter: each for each in shares(trials, kinds)}
    assert found["decides"].share > found["decides"].chance
    assert found["other"].share < found["other"].chance
    assert found["third"].share < found["third"].chance
    assert sum(each.share for each in found.values()) == pytest.approx(1.0)


def test_importances_need_trials_and_different_scores(shown: Shown) -> None:
    assert importances(shown("running")) is None
    assert importances(shown("all_failed")) is None
    alike = [
        TrialRecord("trial", n, parameters={"a": 0.1, "b": 0.2}, search=Scoring("complete", "p", 1.0))
        for n in range(30)
    ]
    assert shares(alike, {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}) == []
    bars, marks = figure(importances(shown("three_objectives")), "importances")["data"]
    assert bars["y"] == marks["y"]
    assert len(bars["y"]) == 3 + 1 + 3 + 2


def test_knots_are_numbered_and_no_two_labels_are_alike(shown: Shown) -> None:
    labels = list(parameter_labels(shown("three_objectives")).values())
    assert labels[:4] == ["text: density 1", "text: density 2", "text: density 3", "text: weight"]
    every = list(parameter_labels(shown("eight_parents")).values())
    assert len(set(every)) == len(every)


def test_parallel_coordinates_have_an_axis_per_parameter_and_the_best_last(shown: Shown) -> None:
    evidence = shown("eight_parents")
    section = parallel(evidence)
    assert section
    data = section.data
    assert data["numbers"][-1] == evidence.board.best
    assert data["scores"] == sorted(data["scores"])
    assert len(data["axes"]) == 1 + len(evidence.space.distributions() if evidence.space else ())
    assert {len(axis["values"]) for axis in data["axes"]} == {len(data["numbers"])}
    assert parallel(shown("no_trial")) is None


def test_optimism_compares_both_splits(shown: Shown) -> None:
    evidence = shown("twenty_samples")
    trials = trace(optimism(evidence), "optimism", "trials")
    both = [it for it in evidence.board.trials if it.report and it.report.score is not None]
    assert len(both) == 3
    assert trials["x"] == [record.search.score for record in both]
    assert trials["y"] == [record.report.score for record in both if record.report]
    highs = [score + above for score, above in zip(trials["y"], trials["error_y"]["array"], strict=True)]
    assert highs == pytest.approx([interval_of(evidence, record, "report")[1] for record in both])
    assert optimism(shown("no_report")) is None


def test_the_front_is_shown_for_each_pair_of_sets(shown: Shown) -> None:
    evidence = shown("three_objectives")
    section = pareto(evidence)
    assert section
    assert list(section.data["figures"]) == ["pareto-0-1", "pareto-0-2", "pareto-1-2"]
    on_front = [row.record for row in evidence.board.rows if row.on_front]
    best = trace(section, "pareto-0-2", "Pareto front")
    assert sorted(zip(best["x"], best["y"], strict=True)) == sorted(
        (it.search.scores[0], it.search.scores[2]) for it in on_front
    )
    for record in on_front:
        bounds = intervals_of_sets(evidence, record)
        assert all(low <= score <= high for score, (low, high) in zip(record.search.scores, bounds, strict=True))
    assert pareto(shown("running")) is None


def test_phases_add_up_to_the_whole(shown: Shown) -> None:
    evidence = shown("eight_parents")
    for record in evidence.trials:
        assert sum(phases(record).values()) == pytest.approx(record.search.seconds["total"])
    bars = figure(time(evidence), "phases")["data"]
    assert [each["name"] for each in bars] == ["merging", "generation", "scoring", "rest"]


def test_a_worker_does_one_thing_at_a_time_and_has_a_row(shown: Shown) -> None:
    evidence = shown("eight_parents")
    found = sorted(spans(evidence), key=lambda span: (span.worker, span.started))
    for one, next_one in pairwise(found):
        assert one.worker != next_one.worker or one.ended <= next_one.started
    rows = {name for each in figure(time(evidence), "workers")["data"] for name in each["y"]}
    assert {name.partition(" (")[2] for name in rows} == {"host-0, cpu)", "host-1, cpu)"}
    assert len(rows) == 4
    assert time(shown("no_parent")) is None


def test_what_a_search_is_of_and_how_to_run_it_again(finished: Path) -> None:
    evidence = SearchEvidence.open(finished)
    html = about(evidence).html
    assert command(evidence) in html.unescape()
    assert "--seed 0 --allow-code-execution" in command(evidence)
    assert "merge_method: ties" in html
    [machine] = machines(evidence.workplaces.values())
    assert "torch" in machine.software
    assert "cores" in machine.hardware


def test_machines_that_are_alike_are_counted() -> None:
    here, there = Workplace("here", {"cpu": ""}, "a processor", {"torch": "2"}), Workplace("there", {"cuda:0": "x"})
    found = machines([here, there, here])
    assert [(each.host, each.workers) for each in found] == [("here", 2), ("there", 1)]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ({"config": "a", "weights": "b" * 64}, "weights bbbbbbbbbbbb"),
        ({"commit": "c" * 40}, "commit cccccccccccc"),
        ({}, ""),
    ],
)
def test_the_content_of_a_model_is_told_by_its_digest(kinds: dict[str, str], told: str) -> None:
    assert digest_of(kinds) == told
