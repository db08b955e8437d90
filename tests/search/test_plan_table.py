"""What --dry-run shows: ranges first, and tensors that are made alike in one line."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from merging import MergeOptions, Merger, ParentSet, Recipe
from search import SearchConfig
from search.cli.plan_table import plan_table, ranges_table
from search.cli.printing import names_of
from tests.search.conftest import Command
from tests.search.family import Family


def rendered(table: Any, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def outline(plain: dict[str, Any]) -> list[str]:
    recipe = Recipe.from_dict(plain, "test")
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents:
        line, table = plan_table(Merger(parents).steps(recipe), names_of([recipe]), recipe.dtype)
    return [line, *rendered(table, 160)]


def slerp(family: Family, t: object) -> dict[str, Any]:
    models = [{"model": str(family.a)}, {"model": str(family.b)}]
    return {"merge_method": "slerp", "base_model": str(family.a), "models": models, "parameters": {"t": t}}


@pytest.mark.parametrize(
    ("t", "lines"),
    [
        (0.5, ["slerp of b onto a: t 0.50", "tensors", "embed_tokens", "layers 0-2", "norm, lm_head"]),
        (
            [0.0, 1.0],
            ["slerp of b onto a", "tensors t", "embed_tokens 0.00", "layers 0-2 0.00→1.00", "norm, lm_head 0.00"],
        ),
        (
            [0.5, 0.1, 0.8],
            ["slerp of b onto a", "tensors t", "embed_tokens 0.50", "layers 0-1 0.50→0.10", "layers 2 0.80",
             "norm, lm_head 0.50"],
        ),
        (
            [{"filter": "mlp", "value": 0.25}, {"filter": "q_proj", "value": 0.75}, {"value": 0.5}],
            ["slerp of b onto a", "tensors t", "embed_tokens 0.50", "layers 0-2: self_attn.q_proj 0.75",
             "layers 0-2: other self_attn, input_layernorm, post_attention_layernorm 0.50", "layers 0-2: mlp 0.25",
             "norm, lm_head 0.50"],
        ),
    ],
)  # fmt: skip
def test_tensors_that_are_made_alike_are_one_line(shared_family: Family, t: object, lines: list[str]) -> None:
    assert outline(slerp(shared_family, t)) == lines


def test_a_stack_shows_which_layers_it_is_made_of(shared_family: Family) -> None:
    sources = [(shared_family.a, [0, 2]), (shared_family.b, [1, 3]), (shared_family.b, [2, 3])]
    slices = [{"sources": [{"model": str(model), "layer_range": layers}]} for model, layers in sources]
    assert outline({"merge_method": "passthrough", "slices": slices}) == [
        "passthrough",
        "tensors of",
        "embed_tokens a",
        "layers 0-1 a",
        "layers 2-3 b 1-2",
        "layers 4 b 2",
        "norm, lm_head b",
    ]


def test_every_range_is_a_line_with_whose_it_is(shared_family: Family) -> None:
    recipe = """
  merge_method: {choices: [ties, della]}
  base_model: base
  models:
  - model: a
    parameters:
      density: [{filter: mlp, value: {low: 0.1, high: 1.0, log: true}}, {value: {low: 0.2, high: 0.8, step: 0.2}}]
      weight: {low: 0.0, high: 1.0, knots: 3}
  - {model: {choices: [b, base]}, parameters: {density: 0.5, weight: 0.5}}
  parameters: {normalize: {choices: [true, false]}}
"""
    space = SearchConfig.parse(shared_family.config(recipe), folder=shared_family.folder).space
    names = names_of(space.extreme_recipes)
    wide, narrow = (
        rendered(ranges_table(space.ranges, space.example().to_dict(), names, width), width) for width in (160, 80)
    )
    assert wide == [
        "searched range knots scale key",
        "merge_method ties | della merge_method",
        "a density(mlp) 0.1 to 1 logarithmic models[0].parameters.density[0].value",
        "density 0.2 to 0.8 steps of 0.2 models[0].parameters.density[1].value",
        "weight 0 to 1 3 models[0].parameters.weight",
        "b model b | base models[1].model",
        "normalize true | false parameters.normalize",
    ]
    assert narrow == [line.rpartition(" ")[0] for line in wide]


def test_a_range_of_several_places_is_shown_once(shared_family: Family) -> None:
    recipe = """
  merge_method: linear
  models:
    - {model: a, parameters: {weight: {low: 0, high: 1, as: w}}}
    - {model: b, parameters: {weight: {as: w}}}
"""
    space = SearchConfig.parse(shared_family.config(recipe), folder=shared_family.folder).space
    shown = rendered(ranges_table(space.ranges, space.example().to_dict(), names_of(space.extreme_recipes), 80), 80)
    assert shown[1:] == ["a weight w: 0 to 1", "b weight w, as above"]


def test_a_dry_run_shows_ranges_first_and_no_tensor_twice(command: Command, family: Family) -> None:
    lines = command("run", family.write(), "--dry-run").stdout.splitlines()
    assert lines[0].startswith("searched")
    assert len(lines) < 30
    assert sum("layers" in line for line in lines) == 1
