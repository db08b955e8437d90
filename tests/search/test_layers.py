"""A gradient with a knot per layer is one with so many knots, wherever the number of layers is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from merging import LoadOptions, MergingError, Recipe, export_model
from search import SearchConfig, SearchError
from search.space.layers import depth_of, with_layers
from search.space.space import SearchSpace
from tests.search.conftest import Command
from tests.search.family import Family
from tests.tiny import TinyModel, save_tiny_model

KNOTS = {"low": 0.0, "high": 1.0, "knots": "layers"}
DEPTHS = {"six": 6, "also-six": 6, "four": 4, "single": 1}


def depth(model: object) -> int:
    if model not in DEPTHS:
        raise MergingError(f"model {model}: no such folder")
    return DEPTHS[str(model)]


def resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    return with_layers(recipe, "mine.yaml", depth)


def models(*names: Any, **more: Any) -> dict[str, Any]:
    """Return a recipe of these models, of which the first has a knot per layer."""
    entries = [{"model": name, "parameters": {"weight": 1.0}} for name in names]
    entries[0]["parameters"]["weight"] = dict(KNOTS)
    return {"merge_method": "linear", "models": entries, **more}


def slices(*layers: Any, **more: Any) -> dict[str, Any]:
    """Return a recipe of a slice for each of these layer ranges, with a knot per layer in the first."""
    parts = [{"sources": [{"model": "six", "layer_range": each, "parameters": {"scale": 1.0}}]} for each in layers]
    parts[0]["sources"][0]["parameters"]["scale"] = dict(KNOTS)
    return {"merge_method": "passthrough", "slices": parts, **more}


@pytest.mark.parametrize(
    ("recipe", "knots"),
    [
        (models("six", "also-six"), 6),
        (models("unknown", "four", base_model="four"), 4),
        (models({"as": "m"}, "four"), 4),
        (models({"choices": ["six", "also-six"]}, "six"), 6),
        (slices([2, 6], [0, 6]), 4),
        (slices({"choices": [[0, 3], [2, 5]]}, [0, 6]), 3),
        ({"merge_method": "passthrough", "modules": {"text": slices([1, 6])}}, 5),
    ],
)
def test_the_number_of_layers_takes_the_place_of_the_word(recipe: dict[str, Any], knots: int) -> None:
    before = str(recipe)
    assert str(resolved(recipe)) == before.replace("'layers'", str(knots))
    assert str(recipe) == before  # is not changed


def test_a_parameter_of_all_slices_has_their_common_length() -> None:
    recipe = slices([0, 3], [2, 5], parameters={"scale": dict(KNOTS)})
    assert resolved(recipe)["parameters"]["scale"]["knots"] == 3


def test_a_range_that_an_alias_repeats_has_the_length_of_each_slice() -> None:
    recipe = slices([0, 3], [2, 6], [5, 6])
    first, *others = (part["sources"][0]["parameters"] for part in recipe["slices"])
    for other in others:
        other["scale"] = first["scale"]  # as YAML reads *name
    found = [part["sources"][0]["parameters"]["scale"].get("knots") for part in resolved(recipe)["slices"]]
    assert found == [3, 4, None]


def test_the_gradient_of_a_single_layer_is_a_number() -> None:
    space = SearchSpace.read(resolved(models("single", "single-b", base_model="single")), "mine.yaml")
    assert list(space.distributions()) == ["models[0].parameters.weight"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (models("nowhere", "six"), r"models\[0\].parameters.weight.knots: .* not known: model nowhere: no such folder"),
        (models({"choices": ["six", "four"]}, "six"), r"models\[0\].parameters.weight.knots: .*: there are 4 or 6"),
        (models({"as": "m"}), r"models\[0\].parameters.weight.knots: .*: no model is given"),
        ({"models": {"choices": []}, "parameters": {"t": dict(KNOTS)}}, r"parameters.t.knots: .*: no model is given"),
        (slices([{"low": 0, "high": 4}, 6]), r"slices\[0\].*scale.knots: .*: the layers of the slice are searched"),
        (slices({"choices": [[0, 3], [0, 4]]}), r"slices\[0\].*scale.knots: .*: there are 3 or 4"),
        (slices([0, 3], [0, 4], parameters={"scale": dict(KNOTS)}), r"parameters.scale.knots: .*: there are 3 or 4"),
        ({"slices": {"choices": []}, "parameters": {"t": dict(KNOTS)}}, r"parameters.t.knots: .* slices are searched"),
        ({"slices": [{}], "parameters": {"t": dict(KNOTS)}}, r"parameters.t.knots: .*: the slice has no layer_range"),
        ({"modules": {"text": models("six")}}, r"modules.text.models\[0\].*knots: .*several stacks of layers"),
        ({"modules": {}, "parameters": {"t": dict(KNOTS)}}, r"parameters.t.knots: .*several stacks"),
    ],
)  # fmt: skip
def test_a_number_that_is_not_known_is_named_by_its_key(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: recipe.{message}.*; give the number of knots"):
        resolved(recipe)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_depth_of_a_model_is_what_its_config_says(tmp_path: Path, architecture: str) -> None:
    save_tiny_model(tmp_path / "a+b", TinyModel(architecture=architecture, layers=5))
    for model in (str(tmp_path / "a+b"), {"model": {"path": str(tmp_path / "a+b")}}):
        assert depth_of(model, LoadOptions()) == 5
    with pytest.raises(MergingError, match="no such folder"):
        depth_of(str(tmp_path / "c"), LoadOptions())


def test_a_model_whose_config_does_not_say_its_depth_is_named(family: Family) -> None:
    (family.base / "config.json").write_text('{"model_type": "levit", "architectures": ["LevitModel"]}')
    with pytest.raises(SearchError, match=r"weight.knots: the number of layers is not known: model .* has no num_hidd"):
        SearchConfig.load(family.write(recipe=RECIPE))


RECIPE = """
  merge_method: task_arithmetic
  base_model: base
  models:
    - {model: a, parameters: {weight: {low: 0, high: 1, knots: layers}}}
"""


def test_each_layer_has_a_weight_of_its_own(shared_family: Family, tmp_path: Path) -> None:
    space = SearchConfig.parse(shared_family.config(recipe=RECIPE), folder=shared_family.folder).space
    names = [f"models[0].parameters.weight[{layer}]" for layer in range(3)]
    assert list(space.distributions()) == names
    merged = merge(space.recipe_at(dict(zip(names, (0.0, 1.0, 0.0), strict=True))), tmp_path / "merged")
    base, other = (load_file(model / "model.safetensors") for model in (shared_family.base, shared_family.a))
    assert {name for name, tensor in merged.items() if not tensor.equal(base[name])} == {
        name for name in base if ".layers.1." in name and not base[name].equal(other[name])
    }


def merge(recipe: Recipe, folder: Path) -> dict[str, Any]:
    export_model(recipe, folder)
    return load_file(folder / "model.safetensors")


def test_the_identity_of_a_search_holds_the_number(shared_family: Family) -> None:
    words, numbers = (
        SearchConfig.parse(shared_family.config(recipe=text), folder=shared_family.folder).identity
        for text in (RECIPE, RECIPE.replace("knots: layers", "knots: 3"))
    )
    assert words == numbers


def test_a_dry_run_shows_it(family: Family, command: Command) -> None:
    shown = command("run", family.write(recipe=RECIPE), "--dry-run")
    assert shown.exit_code == 0
    assert [line.split()[:6] for line in shown.stdout.splitlines()][1] == ["a", "weight", "0", "to", "1", "3"]


def test_a_model_that_is_not_there_is_named(family: Family, command: Command) -> None:
    found = command("run", family.write(recipe=RECIPE.replace("base_model: base", "base_model: bas")), "--dry-run")
    assert found.exit_code == 2
    assert "recipe.models[0].parameters.weight.knots: the number of layers is not known: model bas: " in found.stderr
