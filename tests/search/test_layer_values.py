"""Layer values: what mergekit resolves for the same recipe, tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mergekit.config import evaluate_setting  # type: ignore[import-untyped]

from merging import LoadOptions
from search.errors import SearchError
from search.layer_values import knot_values, layer_values
from search.results import ResultsFolder
from tests.search.family import Family

LAYERS = 3


def recipe_of(family: Family, weight: object) -> dict[str, Any]:
    return {
        "merge_method": "ties",
        "base_model": str(family.base),
        "models": [
            {"model": str(family.a), "parameters": {"density": [0.2, 0.9], "weight": weight}},
            {"model": str(family.b), "parameters": {"density": 0.5, "weight": 1.0}},
        ],
    }


FILTERED = [{"filter": "mlp", "value": [0.1, 0.5, 0.4, 0.2]}, {"filter": "q_proj", "value": 0.7}, {"value": [0.3, 0.6]}]


@pytest.mark.parametrize("weight", [0.5, [0.0, 1.0], [1.0, 0.25, 0.5, 0.125], FILTERED])
def test_the_values_are_mergekits(shared_family: Family, finished: Path, weight: object) -> None:
    folder = ResultsFolder.open(finished)
    recipe = recipe_of(shared_family, weight)
    [curves] = layer_values([recipe], folder.identity, folder.path, LoadOptions())
    assert {(Path(curve.model).name, curve.parameter) for curve in curves if curve.model} == {
        (model, key) for model in "ab" for key in ("density", "weight")
    }
    settings: Mapping[str, Mapping[str, Any]] = {each["model"]: each["parameters"] for each in recipe["models"]}
    for curve in (curve for curve in curves if curve.model):
        setting = settings[curve.model][curve.parameter]
        for tensor in curve.tensors:
            wanted = [
                evaluate_setting(f"model.layers.{layer}.{tensor}", plain(setting), layer / (LAYERS - 1), validate=float)
                for layer in range(LAYERS)
            ]
            assert list(curve.values) == pytest.approx(wanted)
        assert list(curve.outside) == [
            pytest.approx(evaluate_setting("lm_head.weight", plain(setting), 0.0, validate=float))
        ]


def plain(setting: Any) -> Any:
    """Return a setting as mergekit parses it."""
    from mergekit.config import ConditionalParameter

    is_filtered = isinstance(setting, list) and isinstance(setting[0], dict)
    return [ConditionalParameter(**item) for item in setting] if is_filtered else setting


def test_tensors_that_differ_have_curves_of_their_own(shared_family: Family, finished: Path) -> None:
    folder = ResultsFolder.open(finished)
    [curves] = layer_values([recipe_of(shared_family, FILTERED)], folder.identity, folder.path, LoadOptions())
    weights = [curve for curve in curves if curve.model == str(shared_family.a) and curve.parameter == "weight"]
    assert [curve.is_whole for curve in weights] == [False, False, False]
    assert {tensor for curve in weights for tensor in curve.tensors if "mlp" in tensor} in [
        set(c.tensors) for c in weights
    ]
    densities = [curve for curve in curves if curve.model == str(shared_family.a) and curve.parameter == "density"]
    assert [curve.is_whole for curve in densities] == [True]


def test_a_parent_that_is_gone_is_told_and_not_asked_for_on_the_hub(
    finished: Path, family: Family, shared_family: Family
) -> None:
    folder = ResultsFolder.open(finished)
    with pytest.raises(SearchError, match="model somebody/a-model: is not on this disk"):
        list(
            layer_values(
                [{**recipe_of(shared_family, 1.0), "base_model": "somebody/a-model"}],
                folder.identity,
                folder.path,
                LoadOptions(),
            )
        )
    identity = {"contents": {str(family.a): {"place": str(family.a), "beside": [], "digests": {"weights": "x"}}}}
    shutil.rmtree(family.a)
    with pytest.raises(SearchError, match="is not on this disk"):
        list(layer_values([recipe_of(family, 1.0)], identity, folder.path, LoadOptions()))


def test_without_parents_there_are_the_knots(family: Family) -> None:
    curves = knot_values(recipe_of(family, FILTERED), Path("results"))
    of_a = {(curve.parameter, curve.tensors): curve.values for curve in curves if curve.model == str(family.a)}
    assert of_a == {
        ("density", ()): (0.2, 0.9),
        ("weight", ("mlp",)): (0.1, 0.5, 0.4, 0.2),
        ("weight", ("q_proj",)): (0.7, 0.7),
        ("weight", ()): (0.3, 0.6),
    }
    assert (
        knot_values(
            {
                "merge_method": "linear",
                "slices": [{"sources": [{"model": "a", "layer_range": [0, 2], "parameters": {"weight": 1.0}}]}],
            },
            Path("results"),
        )
        == ()
    )
