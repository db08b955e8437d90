"""Models, trials and parameters go by the same names everywhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from search.board.names import displayed_name, find_record, parameter_lines, parent_names, record_name
from search.errors import SearchError
from search.study.record import Scoring, TrialRecord

OVER = Scoring("complete")
NAMES = {"/far/away/text": "text", "/far/away/maths": "maths"}
MODELS: dict[str, Any] = {
    "merge_method": "ties",
    "models": [
        {"model": "/far/away/text", "parameters": {"density": [0.5, 0.25], "weight": 1.0}},
        {
            "model": "/far/away/maths",
            "parameters": {"density": [{"filter": "mlp", "value": 0.5}, {"value": [0.1, 0.2]}], "weight": 0.3},
        },
    ],
    "parameters": {"lambda": 1.5},
}
SLICES: dict[str, Any] = {
    "slices": [
        {"sources": [{"model": "/far/away/text", "layer_range": [0, 2]}]},
        {
            "sources": [{"model": "/far/away/maths", "layer_range": [1, 3], "parameters": {"weight": 0.5}}],
            "parameters": {"t": 0.25},
        },
    ]
}


def shown(parameters: dict[str, Any], recipe: dict[str, Any], width: int = 200) -> list[str]:
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in parameter_lines(parameters, recipe, NAMES, width)]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (TrialRecord("trial", 7), "trial 7"),
        (TrialRecord("parent", 0, "/far/away/text"), "text"),
        (TrialRecord("parent", 1, "/far/away/code"), "/far/away/code"),
        (TrialRecord("average", name="average"), "average"),
    ],
)
def test_a_parent_goes_by_its_short_name_and_all_others_by_their_full_one(record: TrialRecord, name: str) -> None:
    assert displayed_name(record, NAMES) == name


@pytest.mark.parametrize(
    ("parameters", "recipe", "line"),
    [
        ({"models[0].parameters.weight": 0.5}, MODELS, "text: weight 0.50"),
        (
            {"models[0].parameters.density[0]": 0.5, "models[0].parameters.density[1]": 0.25},
            MODELS,
            "text: density 0.50 0.25",
        ),
        (
            {"models[1].parameters.density[0].value": 0.5, "models[1].parameters.density[1].value[0]": 0.1},
            MODELS,
            "maths: density(mlp) 0.50, density 0.10",
        ),
        ({"models[1].parameters.density.value": 0.5}, MODELS, "maths: density(mlp) 0.50"),
        ({"merge_method": "ties", "parameters.lambda": 1.5}, MODELS, "merge_method ties, lambda 1.50"),
        ({"models[0].model": "/far/away/text"}, MODELS, "text: model text"),
        (
            {"slices[0].sources[0].layer_range[1]": 2, "slices[1].sources[0].parameters.weight": 0.5},
            SLICES,
            "slice 0 text: layer_range 2  slice 1 maths: weight 0.50",
        ),
        ({"slices[1].parameters.t[0]": 0.25}, SLICES, "slice 1: t 0.25"),
        ({"modules.head.models[0].parameters.weight": 0.5}, {"modules": {"head": MODELS}}, "text: head.weight 0.50"),
        (
            {"models[0].parameters.weight": 0.0012, "parameters.lambda": 0.0},
            MODELS,
            "text: weight 0.0012  lambda 0.00",
        ),
        (
            {"models[0].parameters.weight": 1.0647695450795e30, "parameters.lambda": -123456.0},
            MODELS,
            "text: weight 1.06e+30  lambda -1.23e+05",
        ),
        ({"parameters.lambda": 1.23456e-7}, MODELS, "lambda 1.23e-07"),
        ({"models[0].parameters.weight": 0.5, "models[1].parameters.weight": 0.5}, {}, "weight 0.50 0.50"),
        ({}, MODELS, ""),
    ],
)
def test_parameters_are_named_as_in_the_recipe(parameters: dict[str, Any], recipe: dict[str, Any], line: str) -> None:
    assert shown(parameters, recipe) == ([line] if line else [])


def test_what_does_not_fit_a_line_has_a_line_a_model() -> None:
    parameters = {
        f"models[{i}].parameters.{key}[{k}]": 0.5 for i in (0, 1) for key in ("density", "weight") for k in (0, 1)
    }
    lines = shown(parameters, {"models": [{"model": name} for name in NAMES]}, width=50)
    assert lines == ["text: density 0.50 0.50, weight 0.50 0.50", "maths: density 0.50 0.50, weight 0.50 0.50"]
    narrow = shown(parameters, {"models": [{"model": name} for name in NAMES]}, width=30)
    assert narrow[:2] == ["text: density 0.50 0.50,", "  weight 0.50 0.50"]


def test_a_long_name_leaves_room_for_the_parameters() -> None:
    name = "OpenCodeInterpreter-DS-6.7B-and-more"
    (line,) = parameter_lines({"models[0].parameters.weight": 0.5}, {"models": [{"model": name}]}, {}, 100)
    assert line == "OpenCodeInte…7B-and-more: weight\N{NO-BREAK SPACE}0.50"


def test_parameters_of_a_path_that_is_spelled_out_are_named_by_it() -> None:
    references = ("/x/text@v2", "/x/maths+v2", "/x/plain+/y/lora")
    plain = [{"model": {"path": references[0]}}, {"model": {"path": references[1]}}, references[2]]
    recipe = {"models": [{"model": each, "parameters": {"weight": 0.5}} for each in plain]}
    names = parent_names([{"models": [each]} for each in recipe["models"]], 24)
    parameters = {f"models[{index}].parameters.weight": 0.5 for index in range(3)}
    assert tuple(names) == references
    assert [line.replace("\N{NO-BREAK SPACE}", " ") for line in parameter_lines(parameters, recipe, names, 30)] == [
        "text@v2: weight 0.50",
        "maths+v2: weight 0.50",
        "plain+lora: weight 0.50",
    ]


def test_a_chosen_part_of_a_recipe_shows_the_models_names() -> None:
    chosen = '[{"model": "/far/away/text", "layer_range": [0, 2]}]'
    assert shown({"slices[0].sources": chosen}, SLICES) == [
        'slice 0: sources [{"model": "text", "layer_range": [0, 2]}]'
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["deepseek-coder-instruct-sft-epoch1-lr1e-5-seed42", "deepseek-coder-instruct-sft-epoch2-lr1e-5-seed42"],
        ["模型" * 20 + "一" + "模型" * 20, "模型" * 20 + "二" + "模型" * 20],
        ["e\u0301" * 40 + "a" + "e\u0301" * 40, "e\u0301" * 40 + "b" + "e\u0301" * 40, "short"],
        ["a" * 40 + "x" * 50 + "b" * 40, "a" * 40 + "x" * 25 + "y" + "x" * 24 + "b" * 40],
        ["a" * 30, "a" * 31, "a" * 32],
    ],
)
@pytest.mark.parametrize("width", [12, 24])
def test_no_two_long_names_are_shortened_to_one(names: list[str], width: int) -> None:
    found = parent_names([{"models": [{"model": f"/x/{name}"}]} for name in names], width)
    assert len(set(found.values())) == len(names)
    assert all(cell_len(name) <= width for name in found.values())


def test_a_person_names_trials_by_number_and_parents_as_the_leaderboard_does() -> None:
    parents = [
        TrialRecord("parent", number, reference, recipe={"models": [{"model": reference}]}, search=OVER)
        for number, reference in enumerate(["/far/away/text", "org/maths", "/near/7", "/one/base", "/two/base"])
    ]
    average = TrialRecord("average", name="average", search=OVER)
    trials = [TrialRecord("trial", number, search=OVER) for number in range(8)]
    records = [*parents, average, *trials, TrialRecord("trial", 8)]
    for record in records[:-1]:
        assert find_record(records, record_name(record), "run") is record
    assert find_record(records, "text", "run") is parents[0]
    assert find_record(records, "maths", "run") is parents[1]
    assert find_record(records, "two/base", "run") is parents[4]
    assert find_record(records, "7", "run") is trials[7]  # and not the parent whose folder has that name
    for called, message in {
        "base": "run: has no trial or parent base; the last trial that is over is 7; the parents are text, maths, 7, "
        "one/base, two/base",
        "9": "run: has no trial or parent 9; the last trial that is over is 7",
        "8": "run: trial 8 is not over yet",
    }.items():
        with pytest.raises(SearchError, match=re.escape(message)):
            find_record(records, called, "run")
    with pytest.raises(SearchError, match="run: has no trial or parent 8; no trial is over yet"):
        find_record(parents, "8", "run")
