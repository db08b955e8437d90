"""Searched numbers are shown by the model that they are of."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from search.numbers import number_lines, parent_names

NAMES = {"/far/away/strings": "strings", "/far/away/numbers": "numbers"}
MODELS: dict[str, Any] = {
    "merge_method": "ties",
    "models": [
        {"model": "/far/away/strings", "parameters": {"density": [0.5, 0.25], "weight": 1.0}},
        {
            "model": "/far/away/numbers",
            "parameters": {"density": [{"filter": "mlp", "value": 0.5}, {"value": [0.1, 0.2]}], "weight": 0.3},
        },
    ],
    "parameters": {"lambda": 1.5},
}
SLICES: dict[str, Any] = {
    "slices": [
        {"sources": [{"model": "/far/away/strings", "layer_range": [0, 2]}]},
        {
            "sources": [{"model": "/far/away/numbers", "layer_range": [1, 3], "parameters": {"weight": 0.5}}],
            "parameters": {"t": 0.25},
        },
    ]
}


def shown(numbers: dict[str, Any], recipe: dict[str, Any], width: int = 200) -> list[str]:
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in number_lines(numbers, recipe, NAMES, width)]


@pytest.mark.parametrize(
    ("numbers", "recipe", "line"),
    [
        ({"models[0].parameters.weight": 0.5}, MODELS, "strings: weight 0.50"),
        (
            {"models[0].parameters.density[0]": 0.5, "models[0].parameters.density[1]": 0.25},
            MODELS,
            "strings: density 0.50 0.25",
        ),
        (
            {"models[1].parameters.density[0].value": 0.5, "models[1].parameters.density[1].value[0]": 0.1},
            MODELS,
            "numbers: density(mlp) 0.50, density 0.10",
        ),
        ({"models[1].parameters.density.value": 0.5}, MODELS, "numbers: density(mlp) 0.50"),
        ({"merge_method": "ties", "parameters.lambda": 1.5}, MODELS, "merge_method ties, lambda 1.50"),
        ({"models[0].model": "/far/away/strings"}, MODELS, "strings: model strings"),
        (
            {"slices[0].sources[0].layer_range[1]": 2, "slices[1].sources[0].parameters.weight": 0.5},
            SLICES,
            "slice 0 strings: layer_range 2  slice 1 numbers: weight 0.50",
        ),
        ({"slices[1].parameters.t[0]": 0.25}, SLICES, "slice 1: t 0.25"),
        ({"modules.text.models[0].parameters.weight": 0.5}, {"modules": {"text": MODELS}}, "strings: text.weight 0.50"),
        (
            {"models[0].parameters.weight": 0.0012, "parameters.lambda": 0.0},
            MODELS,
            "strings: weight 0.0012  lambda 0.00",
        ),
        (
            {"models[0].parameters.weight": 1.0647695450795e30, "parameters.lambda": -123456.0},
            MODELS,
            "strings: weight 1.06e+30  lambda -1.23e+05",
        ),
        ({"parameters.lambda": 1.23456e-7}, MODELS, "lambda 1.23e-07"),
        ({"models[0].parameters.weight": 0.5, "models[1].parameters.weight": 0.5}, {}, "weight 0.50 0.50"),
        ({}, MODELS, ""),
    ],
)
def test_numbers_are_named_as_in_the_recipe(numbers: dict[str, Any], recipe: dict[str, Any], line: str) -> None:
    assert shown(numbers, recipe) == ([line] if line else [])


def test_what_does_not_fit_a_line_has_a_line_a_model() -> None:
    numbers = {
        f"models[{i}].parameters.{key}[{k}]": 0.5 for i in (0, 1) for key in ("density", "weight") for k in (0, 1)
    }
    lines = shown(numbers, {"models": [{"model": name} for name in NAMES]}, width=50)
    assert lines == ["strings: density 0.50 0.50, weight 0.50 0.50", "numbers: density 0.50 0.50, weight 0.50 0.50"]
    narrow = shown(numbers, {"models": [{"model": name} for name in NAMES]}, width=30)
    assert narrow[:2] == ["strings: density 0.50 0.50,", "  weight 0.50 0.50"]


def test_a_long_name_leaves_room_for_the_numbers() -> None:
    name = "OpenCodeInterpreter-DS-6.7B-and-more"
    (line,) = number_lines({"models[0].parameters.weight": 0.5}, {"models": [{"model": name}]}, {}, 100)
    assert line == "OpenCodeInte…7B-and-more: weight\N{NO-BREAK SPACE}0.50"


def test_numbers_of_a_path_that_is_spelled_out_are_named_by_it() -> None:
    references = ("/x/strings@v2", "/x/numbers+v2", "/x/plain+/y/lora")
    plain = [{"model": {"path": references[0]}}, {"model": {"path": references[1]}}, references[2]]
    recipe = {"models": [{"model": each, "parameters": {"weight": 0.5}} for each in plain]}
    names = parent_names([{"models": [each]} for each in recipe["models"]], 24)
    numbers = {f"models[{index}].parameters.weight": 0.5 for index in range(3)}
    assert tuple(names) == references
    assert [line.replace("\N{NO-BREAK SPACE}", " ") for line in number_lines(numbers, recipe, names, 30)] == [
        "strings@v2: weight 0.50",
        "numbers+v2: weight 0.50",
        "plain+lora: weight 0.50",
    ]


def test_a_chosen_part_of_a_recipe_shows_the_models_names() -> None:
    chosen = '[{"model": "/far/away/strings", "layer_range": [0, 2]}]'
    assert shown({"slices[0].sources": chosen}, SLICES) == [
        'slice 0: sources [{"model": "strings", "layer_range": [0, 2]}]'
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
