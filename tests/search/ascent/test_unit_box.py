"""Slopes of all parameters at once are those of each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging import Merger, ParentSet
from search.ascent.unit_box import UnitBox
from search.space.space import SearchSpace
from search.study.record import Parameters
from tests.search.family import Family

SPACE = {
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": {"low": 0.0, "high": 1.0, "knots": 3}}},
        {
            "model": "b",
            "parameters": {
                "weight": [
                    {"filter": "mlp", "value": {"low": 0.1, "high": 2.0, "log": True}},
                    {"filter": "self_attn", "value": {"low": -1.0, "high": 1.0, "knots": 2}},
                    {"value": 0.5},
                ]
            },
        },
    ],
    "parameters": {"lambda": {"choices": [1.0, 0.9]}},
    "dtype": "float32",
}


def space(family: Family) -> SearchSpace:
    text = {**SPACE, "base_model": str(family.base)}
    models = [{**model, "model": str(family.folder / str(model["model"]))} for model in SPACE["models"]]  # type: ignore[index]
    return SearchSpace.read({**text, "models": models}, "test")


@pytest.fixture
def merger(shared_family: Family) -> Iterator[Merger]:
    with ParentSet.open(space(shared_family).extreme_recipes) as parents:
        yield Merger(parents)


def some_gradients(merger: Merger, found: SearchSpace, at: Parameters) -> Mapping[str, Tensor]:
    """Return any gradients: those of the sum of squares."""
    model = merger.apply(found.recipe_at(at)).requires_grad_(True)
    with torch.enable_grad():
        torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum().backward()
    model.requires_grad_(False)
    return merger.take_gradients()


def test_slopes_of_knots_and_filters_are_those_of_each_by_itself(shared_family: Family, merger: Merger) -> None:
    found = space(shared_family)
    box = UnitBox.of(found.ranges, found.recipe_at)
    assert len(box.names) == 6
    at = {**found.middle(), "models[0].parameters.weight[1]": 0.99}
    gradients = some_gradients(merger, found, at)
    moves = box.moves(merger, at)
    # Filters of one parent have no tensor in common; both parents have all.
    assert len(moves) == 2
    slopes = {
        name: slope
        for move in moves
        for name, slope in move.slopes(merger, merger.slopes(gradients, move.low, move.high)).items()
    }
    point = box.point(at)
    for name in box.names:
        ends = [min(1.0, point[name] + 0.05), max(0.0, point[name] - 0.05)]
        high, low = (found.recipe_at(box.parameters({**point, name: end}, at)) for end in ends)
        alone = sum(merger.slopes(gradients, low, high).values()) / (ends[0] - ends[1])
        assert slopes[name] == pytest.approx(alone, rel=2e-2, abs=1e-4)


def test_choices_have_no_place_in_the_box(shared_family: Family) -> None:
    found = space(shared_family)
    box = UnitBox.of(found.ranges, found.recipe_at)
    assert "parameters.lambda" not in box.names
    assert box.parameters(box.point(found.middle()), found.middle()) == pytest.approx(found.middle())


@given(st.data())
def test_points_and_parameters_are_inverse(data: st.DataObject) -> None:
    family = Family(*(Path("m") / name for name in ("", "base", "a", "b", "p")))
    found = space(family)
    box = UnitBox.of(found.ranges, found.recipe_at)
    point = {name: data.draw(st.floats(0, 1)) for name in box.names}
    parameters = box.parameters(point, found.middle())
    found.require(parameters)
    assert box.point(parameters) == pytest.approx(point, abs=1e-9)
