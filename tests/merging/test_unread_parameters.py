"""Numbers that nothing reads are named, with the reason; and no other number is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import METHODS, MergeOptions, Merger, ParentSet, Recipe
from merging.methods import Scope
from merging.planning.plan import Plan
from merging.unread_parameters import unread, unread_notes
from tests.merging.conftest import Family


def notes(recipe: dict[str, Any]) -> list[str]:
    read = Recipe.from_dict({"dtype": "bfloat16", **recipe}, "test")
    with ParentSet.open(read, MergeOptions(memory_budget=0)) as parents:
        return unread_notes(unread(read, Plan.of(read, parents), parents), str)


def slerp(family: Family, t: object, **more: object) -> dict[str, Any]:
    models = [{"model": family.a}, {"model": family.b}]
    return {"merge_method": "slerp", "base_model": family.a, "models": models, "parameters": {"t": t, **more}}


def ties(family: Family, second: str, a: dict[str, object], b: dict[str, object], **more: object) -> dict[str, Any]:
    models = [{"model": family.a, "parameters": a}, {"model": second, "parameters": b}]
    return {"merge_method": "ties", "base_model": family.base, "models": models, "parameters": more}


def filters(*items: tuple[str | None, object]) -> list[dict[str, object]]:
    return [{"filter": name, "value": value} if name else {"value": value} for name, value in items]


@pytest.mark.parametrize(
    ("t", "found"),
    [
        (0.5, []),
        (filters(("mlp", 0.2), ("self_attn", 0.3), (None, 0.5)), []),
        (filters(("mpl", 0.2), (None, 0.5)), ["t[0].value: nothing reads it: its filter 'mpl' matches no tensor of the "
                                              "merge; did you mean 'mlp'?"]),
        (filters(("mlp", 0.2), ("gate", 0.3), (None, 0.5)), ["t[1].value: nothing reads it: earlier filters take "
                                                            "every tensor that it fits"]),
        (filters((None, 0.5), ("lm_head", 0.2)), ["t[1].value: nothing reads it: earlier filters take every "
                                                  "tensor that it fits"]),
        ([0.1, 0.2, 0.3], []),
        ([0.1, 0.2, 0.3, 0.4], []),  # of three layers the middle one lies between two knots
        ([0.1, 0.2, 0.3, 0.4, 0.5], ["t[1], [3]: nothing reads them: no tensor is near such a knot; the layers need "
                                     "fewer than 5 knots"]),
        (filters(("lm_head", [0.1, 0.2]), (None, 0.5)), ["t[0].value[1]: nothing reads it: no tensor is near such a "
                                                         "knot; the layers need fewer than 2 knots"]),
        (filters(("rotary", [0.1, 0.2]), (None, 0.5)), ["t[0].value: nothing reads it: its filter 'rotary' matches no "
                                                        "tensor of the merge"]),
    ],
)  # fmt: skip
def test_filters_and_knots_that_no_tensor_has_are_named(family: Family, t: object, found: list[str]) -> None:
    assert notes(slerp(family, t)) == [f"parameters.{line}" for line in found]


def test_numbers_that_a_method_does_not_know_are_named(family: Family) -> None:
    assert notes(slerp(family, 0.5, weight=0.3, density=[0.1, 0.2])) == [
        "parameters.weight: nothing reads it: slerp has no parameter 'weight'",
        "parameters.density: nothing reads it: slerp has no parameter 'density'",
    ]


def test_numbers_in_the_wrong_place_are_named(family: Family) -> None:
    recipe = ties(family, family.b, {"weight": 1.0, "normalize": True}, {"weight": 0.5}, weight=0.2, density=0.5)
    recipe["models"].append({"model": family.base, "parameters": {"density": 0.5}})
    assert notes(recipe) == [
        "models[0].parameters.normalize: nothing reads it: ties has one normalize for all models; write it under the "
        "recipe's own 'parameters'",
        "models[2].parameters.density: nothing reads it: it belongs to the base model, but ties takes a density "
        "only from the others",
        "parameters.weight: nothing reads it: a weight nearer to the tensors takes precedence",
    ]


def test_numbers_of_a_slice_are_read_before_those_of_all(family: Family) -> None:
    sources = [{"model": family.a, "layer_range": [0, 3]}, {"model": family.b, "layer_range": [0, 3]}]
    part = {"sources": sources, "parameters": {"t": [0.1, 0.2]}, "residual_weight": 0.5}
    recipe = {"merge_method": "slerp", "base_model": family.a, "slices": [part], "parameters": {"t": 0.5}}
    assert notes(recipe) == [
        "slices[0].residual_weight: nothing reads it: it has no effect, as in mergekit 0.1.5",
        "parameters.t: nothing reads it: a t nearer to the tensors takes precedence",
    ]


@pytest.mark.parametrize("how", ["the same folder by a link", "a copy"])
def test_numbers_of_a_parent_that_equals_the_base_are_named(family: Family, tmp_path: Path, how: str) -> None:
    second = tmp_path / "copy"
    if how == "a copy":
        shutil.copytree(family.base, second)
    else:
        second.symlink_to(family.base)
    numbers: dict[str, object] = {"weight": [0.5, 0.7], "density": 0.5}
    equal = f"nothing reads it: {second} equals {family.base} in every tensor that it applies to"
    assert notes(ties(family, str(second), dict(numbers), dict(numbers))) == [
        f"models[1].parameters.weight: {equal}",
        f"models[1].parameters.density: {equal}",
    ]


def test_a_weight_that_normalizes_is_read_even_of_a_parent_that_equals_the_base(family: Family, tmp_path: Path) -> None:
    second = shutil.copytree(family.base, tmp_path / "copy")
    recipe = ties(family, str(second), {"weight": 0.5}, {"weight": 0.5, "density": 0.5}, normalize=True)
    (line,) = notes(recipe | {"merge_method": "dare_linear"})
    assert line.startswith("models[1].parameters.density: nothing reads it: ")


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "consensus_ta"])
def test_where_a_parent_that_equals_the_base_takes_part_alone_counts_it_is_said(
    family: Family, tmp_path: Path, name: str
) -> None:
    copy = str(shutil.copytree(family.base, tmp_path / "copy"))

    def recipe(weight: float) -> dict[str, Any]:
        models = [{"model": family.a, "parameters": {"weight": 0.6}}, {"model": copy, "parameters": {"weight": weight}}]
        return {"dtype": "bfloat16", "merge_method": name, "base_model": family.base, "models": models}

    merges = [merged(recipe(weight)) for weight in (0.0, 0.3, 1.0)]
    assert all(torch.equal(merges[1][key], merges[2][key]) for key in merges[1])
    zero_counts = any(not torch.equal(merges[0][key], merges[1][key]) for key in merges[0])
    assert zero_counts == (name != "consensus_ta")
    said = (
        f"models[1].parameters.weight: nothing reads it: {copy} equals {family.base} in every tensor that it applies to"
    )
    assert notes(recipe(0.3)) == [said + "; it only matters whether it is 0" * zero_counts]
    assert notes(recipe(0.0)) == ([] if zero_counts else [said])


def merged(recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    read = Recipe.from_dict(recipe, "test")
    with ParentSet.open(read) as parents:
        return {name: tensor.clone() for name, tensor in Merger(parents).apply(read).state_dict().items()}


def test_where_to_go_between_two_equal_models_changes_nothing(family: Family, tmp_path: Path) -> None:
    copy = str(shutil.copytree(family.a, tmp_path / "copy"))
    recipe = {**slerp(family, 0.5), "models": [{"model": family.a}, {"model": copy}]}
    assert notes(recipe) == ["parameters.t: nothing reads it: the models are equal in every tensor that it applies to"]


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if not each.observes])
def test_every_number_that_a_method_takes_is_read(family: Family, name: str) -> None:
    method = METHODS[name]
    values = {p.key: p.default if p.default is not None else 0.5 for p in method.parameters}
    own = {p.key: values[p.key] for p in method.parameters if p.scope is not Scope.SHARED}
    shared = {p.key: values[p.key] for p in method.parameters if p.scope is Scope.SHARED}
    base = {"base_model": family.base} if method.base != "ignored" else {}
    chosen = [family.a] if method.refuses_count(2 + len(base), bool(base)) else [family.a, family.b]
    models = [{"model": each, "parameters": own} for each in chosen]
    assert notes({"merge_method": name, **base, "models": models, "parameters": shared}) == []


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize(("density", "epsilon"), [(0.2, 0.1), (0.8, 0.1), (0.5, 0.2), (0.9, 0.05)])
def test_numbers_that_only_some_others_go_with_are_read(
    family: Family, method: str, density: float, epsilon: float
) -> None:
    numbers = {"density": density, "epsilon": epsilon, "weight": 0.5}
    assert notes({**ties(family, family.b, numbers, numbers), "merge_method": method}) == []
