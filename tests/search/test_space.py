"""Ranges in a recipe become Optuna's parameters and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from merging import MergingError
from search import SearchError
from search.space import SearchSpace


def recipe(**parameters: Any) -> dict[str, Any]:
    """Return a ties recipe of three models, with these parameters for the first."""
    return {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"density": 0.5, "weight": 1.0} | parameters},
            {"model": "b", "parameters": {"density": 0.5, "weight": 1.0}},
        ],
    }


def read(**parameters: Any) -> SearchSpace:
    return SearchSpace.read(recipe(**parameters), "mine.yaml")


KEY = "models[0].parameters.density"


@pytest.mark.parametrize(
    ("found", "distribution"),
    [
        ({"low": 0.1, "high": 0.9}, FloatDistribution(0.1, 0.9)),
        ({"low": 0, "high": 1}, FloatDistribution(0, 1)),
        ({"low": "1e-3", "high": 1, "log": True}, FloatDistribution(0.001, 1, log=True)),
        ({"low": 0.2, "high": 0.8, "step": 0.2}, FloatDistribution(0.2, 0.8, step=0.2)),
        ({"low": 0, "high": 1, "step": 1}, IntDistribution(0, 1, step=1)),
        ({"choices": [0.1, 0.5]}, CategoricalDistribution([0.1, 0.5])),
    ],
)
def test_a_range_is_one_parameter_named_by_its_key(found: dict[str, Any], distribution: object) -> None:
    assert read(density=found).distributions() == {KEY: distribution}


def test_knots_are_a_parameter_each_and_make_a_gradient() -> None:
    space = read(density={"low": 0.0, "high": 1.0, "knots": 3})
    assert list(space.distributions()) == [f"{KEY}[0]", f"{KEY}[1]", f"{KEY}[2]"]
    made = space.recipe_at({f"{KEY}[0]": 0.25, f"{KEY}[1]": 0.5, f"{KEY}[2]": 0.75})
    assert made.models is not None
    assert made.models[0].parameters["density"] == (0.25, 0.5, 0.75)


def test_ranges_stand_wherever_a_number_does() -> None:
    template = recipe(
        density=[
            {"filter": "mlp", "value": {"low": 0.1, "high": 0.2}},
            {"value": {"low": 0.3, "high": 0.4, "knots": 2}},
        ]
    )
    template["parameters"] = {"lambda": {"low": 0.5, "high": 1.5}}
    template["merge_method"] = {"choices": ["ties", "dare_ties"]}
    assert list(SearchSpace.read(template, "mine.yaml").distributions()) == [
        "merge_method",
        f"{KEY}[0].value",
        f"{KEY}[1].value[0]",
        f"{KEY}[1].value[1]",
        "parameters.lambda",
    ]


def test_corners_name_every_model_and_method_that_may_come() -> None:
    template = recipe(density={"low": 0.1, "high": 1.0})
    template["models"][1]["model"] = {"choices": ["b", "c"]}
    corners = SearchSpace.read(template, "mine.yaml").corners()
    assert {name for corner in corners for name in corner.parents()} == {"base", "a", "b", "c"}


numbers = st.floats(0.0, 1.0)


@given(numbers, numbers, st.floats(0.0, 2.0), st.sampled_from(["ties", "dare_ties"]))
def test_a_recipe_gives_back_the_numbers_that_made_it(one: float, two: float, weight: float, method: str) -> None:
    template = recipe(density={"low": 0.0, "high": 1.0, "knots": 2}, weight={"low": 0.0, "high": 2.0})
    template["merge_method"] = {"choices": ["ties", "dare_ties"]}
    space = SearchSpace.read(template, "mine.yaml")
    params = {
        "merge_method": method,
        f"{KEY}[0]": one,
        f"{KEY}[1]": two,
        "models[0].parameters.weight": weight,
    }
    assert space.parameters_of(space.recipe_at(params).to_dict()) == pytest.approx(params)


@pytest.mark.parametrize(
    ("line", "knots"),
    [(0.5, [0.5, 0.5, 0.5]), ([0.5], [0.5, 0.5, 0.5]), ([0.0, 1.0], [0.0, 0.5, 1.0]), ([1, 0.7, 0.1], [1, 0.7, 0.1])],
)
def test_a_warm_start_with_other_knots_is_taken_over_if_it_draws_the_same_line(line: Any, knots: list[float]) -> None:
    space = read(density={"low": 0.0, "high": 1.0, "knots": 3})
    assert list(space.parameters_of(recipe(density=line)).values()) == knots


@pytest.mark.parametrize(
    ("found", "start", "message"),
    [
        ({"low": 0.0, "high": 1.0, "knots": 3}, [0, 1, 0, 1], "density: a gradient of 3 knots cannot draw"),
        ({"low": 0.2, "high": 0.4}, 0.5, r"density: 0.5 is outside the range \[0.2, 0.4\]"),
        ({"low": 0.2, "high": 0.4}, [0.2, 0.4], "density: expected a number, got"),
        ({"low": 0.2, "high": 0.4}, "much", "density: expected a number, got 'much'"),
        ({"low": 0.2, "high": 0.4, "knots": 2}, [], "density: expected a number or a list of numbers"),
        ({"low": 0.0, "high": 1.0, "step": 0.5}, 0.3, "density: 0.3 is not one of 0, 0.5, ..."),
        ({"choices": [0.1, 0.2]}, 0.3, "density: 0.3 is none of the choices"),
    ],
)
def test_a_warm_start_outside_the_space_is_refused(found: Any, start: Any, message: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: .*{message}"):
        read(density=found).parameters_of(recipe(density=start))


def test_a_warm_start_differs_from_the_searched_recipe_in_the_ranges_alone() -> None:
    space = read(density={"low": 0.0, "high": 1.0})
    with pytest.raises(SearchError, match=r"models\[0\].parameters.weight: is 2.0, but in the searched recipe 1.0"):
        space.parameters_of(recipe(weight=2.0))
    with pytest.raises(SearchError, match=r"dtype: the searched recipe has no such key"):
        space.parameters_of(recipe() | {"dtype": "float16"})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"low": 1.0, "high": 0.5}, r"recipe.models\[0\].parameters.density: low \(1\) is above high \(0.5\)"),
        ({"low": 0.5, "high": 0.5}, "density: low and high are both 0.5; write the number itself"),
        ({"low": 0.5}, "density.high: is missing"),
        ({"high": 0.5}, "density.low: is missing"),
        ({"low": "a", "high": 1}, "density.low: expected a number, got 'a'"),
        ({"low": True, "high": 1}, "density.low: expected a number, got True"),
        ({"low": 0, "high": float("inf")}, "density.high: expected a number, got inf"),
        ({"low": 0, "high": 1, "knots": 1}, "density.knots: a gradient has 2 knots or more, got 1"),
        ({"low": 0, "high": 1, "knots": "3"}, "density.knots: .*got '3'"),
        ({"low": 0, "high": 1, "knot": 3}, "density.knot: unknown key of a range; did you mean 'knots'"),
        ({"low": 0, "high": 1, "log": True}, "density: a logarithmic range needs a low above 0"),
        ({"low": 0, "high": 1, "step": 2}, "density.step: expected a step between 0 and 1"),
        ({"choices": [0.1]}, "density.choices: expected a list of two values or more"),
        ({"choices": [0.1, None]}, "density.choices: choices are numbers, words, true or false"),
        ({"choices": [0.1, 0.2], "low": 0}, "density: a range has either 'choices' or 'low' and 'high'"),
    ],
)
def test_what_is_no_range_is_refused_by_key(found: Any, message: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: .*{message}"):
        read(density=found)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"low": 0.5, "high": 1.5}, r"recipe.models\[0\].parameters.density: 1.5 is outside \[0, 1\]"),
        ({"low": -0.5, "high": 0.5, "knots": 2}, r"density\[0\]: -0.5 is outside \[0, 1\]"),
        ({"choices": [0.5, 1.5]}, "density: 1.5 is outside"),
    ],
)
def test_a_range_beyond_what_the_method_takes_is_refused(found: Any, message: str) -> None:
    with pytest.raises(MergingError, match=f"mine.yaml: .*{message}"):
        read(density=found)


def test_a_choice_that_lacks_something_is_refused() -> None:
    template = recipe(density={"low": 0.1, "high": 1.0})
    template["merge_method"] = {"choices": ["ties", "tiess"]}
    with pytest.raises(MergingError, match=r"recipe\.merge_method: unknown method 'tiess'; did you mean 'ties'"):
        SearchSpace.read(template, "mine.yaml")


def test_a_recipe_without_a_range_is_nothing_to_search() -> None:
    with pytest.raises(SearchError, match=r"mine\.yaml: recipe: holds no range"):
        read()
