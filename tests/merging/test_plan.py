"""A plan is made once for a structure; its steps are those of each recipe of the structure."""

from __future__ import annotations

from typing import Any

import pytest

from merging import Merger, ParentSet, Plan, Recipe
from merging.planning.parameter_lookup import structure_of
from tests.merging.conftest import Family


def della(family: Family, density: Any, weight: Any = 0.5, method: str = "della") -> Recipe:
    models = [{"model": model, "parameters": {"density": density}} for model in (family.a, family.b)]
    return Recipe.from_dict(
        {"merge_method": method, "base_model": family.base, "models": models, "parameters": {"weight": weight}}, "test"
    )


@pytest.mark.parametrize(
    ("density", "other"),
    [
        (0.5, 0.7),
        ([0.5, 0.3], [0.2, 0.6]),
        (
            [{"filter": "mlp", "value": 0.3}, {"value": [0.5, 0.4]}],
            [{"filter": "mlp", "value": 0.5}, {"value": [0.2, 0.6]}],
        ),
    ],
)
def test_recipes_that_differ_in_values_alone_have_one_plan_with_steps_of_their_own(
    family: Family, density: Any, other: Any
) -> None:
    one, two = della(family, density), della(family, other)
    with ParentSet.open([one, two]) as parents:
        merger = Merger(parents)
        assert merger.plan(one) is merger.plan(two)
        assert merger.steps(two) == Plan.of(two, parents).at(two)
        assert merger.steps(one) == Plan.of(one, parents).at(one) != merger.steps(two)


def test_filters_knots_methods_and_where_a_parameter_stands_are_structure(family: Family) -> None:
    filters = [[{"filter": name, "value": 0.5}, {"value": 0.5}] for name in ("mlp", "attn")]
    recipes = [
        della(family, 0.5), della(family, [0.5]), della(family, [0.5, 0.5]), *(della(family, each) for each in filters),
        della(family, 0.5, [0.5]), della(family, 0.5, method="ties"),
    ]  # fmt: skip
    assert len({structure_of(recipe)[0] for recipe in recipes}) == len(recipes)


def test_the_structure_of_a_structure_is_itself(family: Family) -> None:
    structure, values = structure_of(della(family, [0.5, 0.25], 0.75))
    assert values == (0.5, 0.25, 0.5, 0.25, 0.75)
    assert structure_of(structure) == (structure, (0, 1, 2, 3, 4))
