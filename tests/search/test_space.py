"""Ranges in a recipe become Optuna's parameters and back."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from merging import MergingError, Recipe
from merging.recipes.schema import RecipeFields
from search import SearchError
from search.space.space import SearchSpace
from search.study.record import Scoring, TrialRecord
from search.study.samplers import SAMPLERS, Proposer


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


def test_extreme_recipes_name_every_model_and_method_that_may_come() -> None:
    template = recipe(density={"low": 0.1, "high": 1.0})
    template["models"][1]["model"] = {"choices": ["b", "c"]}
    extremes = SearchSpace.read(template, "mine.yaml").extreme_recipes
    assert {name for extreme in extremes for name in extreme.parents()} == {"base", "a", "b", "c"}


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
        ({"low": 0.2, "high": 0.4, "knots": 2}, [], "density: expected a number or a list of numbers, got "),
        ({"low": 0.0, "high": 1.0, "step": 0.5}, 0.3, "density: 0.3 is not one of 0, 0.5, ..."),
        ({"choices": [0.1, 0.2]}, 0.3, "density: 0.3 is not one of the choices"),
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
        ({"low": 0.5}, "density: high is missing"),
        ({"high": 0.5}, "density: low is missing"),
        ({"low": "a", "high": 1}, "density.low: expected a number, got 'a'"),
        ({"low": True, "high": 1}, "density.low: expected a number, got True"),
        ({"low": 0, "high": float("inf")}, "density.high: expected a number, got inf"),
        ({"low": 0, "high": 1, "knots": 1}, "density.knots: expected a number of 2 or more, got 1"),
        ({"low": 0, "high": 1, "knots": "3"}, "density.knots: expected a whole number, got '3'"),
        ({"low": 0, "high": 1, "knot": 3}, "density.knot: unknown key; did you mean 'knots'"),
        ({"low": 0, "high": 1, "log": True}, "density: a logarithmic range needs a low above 0"),
        ({"low": 0, "high": 1, "step": 2}, "density: expected a step between 0 and 1, got 2"),
        ({"choices": [0.1]}, r"density.choices: expected 2 or more entries, got \[0.1\]"),
        ({"low": 0, "high": 1, "step": 0.3}, "density: no number of steps of 0.3 leads from 0 to 1; set high to 0.9"),
        ({"choices": [0.1, None]}, r"density.choices\[1\]: expected a number, a word, a list or a mapping, got None"),
        ({"choices": [0.1, 0.2, 0.1]}, "density.choices: 0.1 is given twice"),
        ({"choices": [0.1, [0.2, {"low": 0}]]}, r"density.choices\[1\]: a choice cannot hold a range"),
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


# --- methods, models and layers --------------------------------------------------------------------------------------


def stack(*ranges: Any, method: Any = "passthrough") -> dict[str, Any]:
    """Return a stack of a slice of one model for each of these layer ranges."""
    models = ["a", "b", "a", "b"]
    slices = [{"sources": [{"model": models[i], "layer_range": layers}]} for i, layers in enumerate(ranges)]
    return {"merge_method": method, "slices": slices}


LAYERS = "slices[{}].sources[0].layer_range"


def space_of(template: dict[str, Any]) -> SearchSpace:
    return SearchSpace.read(template, "mine.yaml")


def test_the_ends_of_layer_ranges_are_whole_numbers() -> None:
    space = space_of(stack([0, {"low": 4, "high": 8}], [{"low": 2, "high": 6, "step": 2}, 12]))
    names = [LAYERS.format(0) + "[1]", LAYERS.format(1) + "[0]"]
    assert space.distributions() == {
        names[0]: IntDistribution(4, 8),
        names[1]: IntDistribution(2, 6, step=2),
    }
    made = space.recipe_at(dict(zip(names, (5, 4), strict=True)))
    assert made.slices is not None
    assert [part.sources[0].layer_range for part in made.slices] == [(0, 5), (4, 12)]


def test_a_whole_layer_range_a_model_and_all_slices_are_chosen_among() -> None:
    template = stack({"choices": [[0, 4], [2, 6]]}, [4, 8])
    template["slices"][1]["sources"][0]["model"] = {"choices": ["b", "c"]}
    space = space_of(template)
    assert space.distributions()[LAYERS.format(0)] == CategoricalDistribution(["[0, 4]", "[2, 6]"])
    made = space.recipe_at({LAYERS.format(0): "[2, 6]", "slices[1].sources[0].model": "c"})
    assert made.to_dict()["slices"] == [
        {"sources": [{"model": "a", "layer_range": [2, 6]}]},
        {"sources": [{"model": "c", "layer_range": [4, 8]}]},
    ]
    stacks = [stack([0, 4])["slices"], stack([0, 4], [2, 8])["slices"]]
    whole = space_of({"merge_method": "passthrough", "slices": {"choices": stacks}})
    (label,) = whole.parameters_of({"merge_method": "passthrough", "slices": stacks[1]}).values()
    assert whole.recipe_at({"slices": label}).to_dict()["slices"] == stacks[1]


def test_a_parameter_that_takes_whole_numbers_is_searched_over_them() -> None:
    template = {"merge_method": "karcher", "models": [{"model": "a"}, {"model": "b"}], "parameters": {}}
    template["parameters"] = {"max_iter": {"low": 1, "high": 100, "log": True}, "tol": {"low": 0, "high": 1}}
    found = space_of(template).distributions()
    assert found["parameters.max_iter"] == IntDistribution(1, 100, log=True)
    assert found["parameters.tol"] == FloatDistribution(0, 1)
    weights = read(weight={"low": 1, "high": 8, "step": 1, "log": True}).distributions()
    assert list(weights.values()) == [IntDistribution(1, 8, log=True)]


def test_layers_and_token_ids_are_searched_over_whole_numbers() -> None:
    """What the recipe's schema reads as integers: the parameters of methods aside, of which these are asked."""
    whole = {
        name
        for section in RecipeFields.model_json_schema()["$defs"].values()
        for name, field in section["properties"].items()
        if '"integer"' in json.dumps(field)
    }
    assert whole == {"layer_range", "token_id", "pad_to_multiple_of"}
    tokens = {"source": "union", "pad_to_multiple_of": {"low": 8, "high": 64}}
    template = recipe(density={"low": 0.1, "high": 1.0}) | {"tokenizer": tokens}
    assert space_of(template).distributions()["tokenizer.pad_to_multiple_of"] == IntDistribution(8, 64)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"low": 0, "high": 4.5}, r"layer_range\[0\].high: expected a whole number, got 4.5"),
        ({"low": 0, "high": 4, "knots": 2}, r"layer_range\[0\].knots: whole numbers cannot form a gradient"),
    ],
)
def test_a_layer_is_no_fraction(found: Any, message: str) -> None:
    with pytest.raises(SearchError, match=rf"mine.yaml: recipe.slices\[0\].sources\[0\].{message}"):
        space_of(stack([found, 8]))


@given(st.integers(0, 3), st.integers(4, 8), st.sampled_from([[0, 4], [2, 6]]), st.sampled_from(["a", "b"]))
def test_layers_and_models_come_back_from_the_recipe_that_they_made(
    first: int, last: int, chosen: list[int], model: str
) -> None:
    template = stack([{"low": 0, "high": 3}, {"low": 4, "high": 8}], {"choices": [[0, 4], [2, 6]]})
    template["slices"][0]["sources"][0]["model"] = {"choices": ["a", "b"]}
    space = space_of(template)
    params = {
        "slices[0].sources[0].model": model,
        LAYERS.format(0) + "[0]": first,
        LAYERS.format(0) + "[1]": last,
        LAYERS.format(1): str(chosen),
    }
    assert space.parameters_of(space.recipe_at(params).to_dict()) == params


def among_methods() -> dict[str, Any]:
    """Return a space of three methods, of which only one has epsilon."""
    template = recipe(density={"low": 0.1, "high": 0.8}, epsilon={"low": 0.01, "high": 0.1})
    template["merge_method"] = {"choices": ["ties", "della", "task_arithmetic"]}
    template["parameters"] = {"epsilon": 0.05}
    return template


def test_a_parameter_is_legal_if_one_of_the_methods_has_it() -> None:
    space = space_of(among_methods())
    assert {extreme.merge_method for extreme in space.extreme_recipes} == {"ties", "della", "task_arithmetic"}
    template = among_methods()
    template["models"][0]["parameters"]["epsilonn"] = 0.1
    with pytest.raises(MergingError, match=r"epsilonn: unknown parameter; ties has .*did you mean 'epsilon'"):
        space_of(template)


def test_a_warm_start_need_not_have_what_its_method_does_not_know() -> None:
    space = space_of(among_methods())
    plain = recipe(density=0.4)
    assert space.parameters_of(plain) == {
        "merge_method": "ties",
        KEY: 0.4,
        "models[0].parameters.epsilon": 0.01,
    }
    made = space.recipe_at(space.parameters_of(plain))
    assert made.models is not None
    assert made.models[0].parameters["density"] == 0.4
    with pytest.raises(SearchError, match=r"parameters.epsilon: expected \{'low': 0.01"):
        space.parameters_of(plain | {"merge_method": "della"})


def test_extreme_recipes_avoid_what_cannot_be_and_say_that_it_is_there() -> None:
    template = recipe(density={"low": 0.1, "high": 0.8})
    for index in (0, 1):
        template["models"][index]["model"] = {"choices": ["a", "b"]}
    space = space_of(template)
    assert {(c.models[0].model, c.models[1].model) for c in space.extreme_recipes if c.models} == {
        ("a", "b"),
        ("b", "a"),
    }
    _, warning = space.fitting_extremes(lambda _: None)
    assert re.fullmatch(
        r"mine.yaml: about (\d+) in 100 points of the space cannot be merged; trials there fail, and the search goes "
        r"on: recipe.models\[1\].model: a is given twice",
        warning,
    )
    assert 35 < int(warning.split()[2]) < 65
    assert not space_of(stack([0, {"low": 4, "high": 8}])).fitting_extremes(lambda _: None)[1]


def test_layer_ranges_that_seldom_fit_each_other_are_found_nevertheless() -> None:
    template = stack([{"low": 0, "high": 4}, {"low": 8, "high": 12}])
    template["merge_method"] = "linear"
    template["parameters"] = {"weight": 1.0}
    template["slices"][0]["sources"].append({"model": "b", "layer_range": [0, {"low": 6, "high": 10}]})
    extremes = space_of(template).extreme_recipes
    ends = [tuple(source.layer_range for source in c.slices[0].sources) for c in extremes if c.slices]
    assert {0, 4} <= {one[0] for one, _ in ends}
    assert {8, 12} <= {one[1] for one, _ in ends}
    assert {6, 10} <= {other[1] for _, other in ends}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"low": 4, "high": 6}, {"low": 2, "high": 4}], r"layer_range \[4, 2\] holds no layers"),
        ([6, {"low": 4, "high": 8}], r"layer_range \[6, 4\] holds no layers"),
    ],
)
def test_an_end_that_never_makes_a_layer_range_is_refused(layers: Any, message: str) -> None:
    with pytest.raises(MergingError, match=rf"mine.yaml: recipe.slices\[0\].sources\[0\]: {message}"):
        space_of(stack(layers))


def test_what_does_not_fit_its_parents_is_found_by_whoever_has_them() -> None:
    space = space_of(stack([0, {"low": 4, "high": 8}], [{"low": 0, "high": 3}, 8]))

    def no_deeper_than(most: int) -> Callable[[Recipe], None]:
        def fits(candidate: Recipe) -> None:
            depth = sum(s.sources[0].layer_range[1] - s.sources[0].layer_range[0] for s in candidate.slices or ())
            if depth > most:
                raise MergingError(f"{depth} layers are too many")

        return fits

    assert re.search(r"about \d in 100 .* 16 layers are too many", space.fitting_extremes(no_deeper_than(15))[1])
    with pytest.raises(MergingError, match="16 layers are too many"):
        space.fitting_extremes(no_deeper_than(11))


def test_where_plans_take_long_a_part_of_the_points_tells_how_many_cannot_be_merged() -> None:
    def refuses_c(candidate: Recipe) -> None:
        time.sleep(0.03)
        if str(candidate.merge_method) == "ties" and candidate.models and candidate.models[0].model == "c":
            raise MergingError("c does not fit")

    template = recipe(density={"low": 0.1, "high": 0.8})
    template["merge_method"] = {"choices": ["ties", "dare_ties"]}
    template["models"][0]["model"] = {"choices": ["a", "c"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.space.space._ESTIMATE_SECONDS", 0.3)
        _, warning = space_of(template).fitting_extremes(refuses_c)
    found = re.search(r"about (\d+) in (\d+) points of the space cannot be merged; .*: c does not fit$", warning)
    assert found
    assert 1 <= int(found[1]) <= int(found[2]) <= 11


def test_a_recipe_without_a_range_is_nothing_to_search() -> None:
    with pytest.raises(SearchError, match=r"mine\.yaml: recipe: holds no range"):
        read()


# --- one parameter in several places ---------------------------------------------------------------------------------


def tied(first: Any, second: Any, **more: Any) -> dict[str, Any]:
    """Return a recipe in which these are the weights of two models."""
    template = recipe(weight=first, **more)
    template["models"][1]["parameters"]["weight"] = second
    return template


WEIGHT = {"low": 0.0, "high": 2.0, "as": "w"}


@pytest.mark.parametrize("second", [{"as": "w"}, WEIGHT, {"as": "w", "low": 0, "high": 2}])
@given(value=st.floats(0.0, 2.0))
def test_places_of_one_name_share_a_parameter(second: Any, value: float) -> None:
    space = space_of(tied(WEIGHT, second))
    assert space.distributions() == {"w": FloatDistribution(0.0, 2.0)}
    made = space.recipe_at({"w": value})
    assert [model.parameters["weight"] for model in made.models or ()] == [value, value]
    assert space.parameters_of(made.to_dict()) == {"w": value}


def test_a_name_may_come_before_its_range() -> None:
    space = space_of(tied({"as": "w"}, WEIGHT, density={"low": 0.2, "high": 0.4}))
    assert list(space.distributions()) == [KEY, "w"]


def test_gradients_choices_and_layers_are_shared_too() -> None:
    line = {"low": 0.0, "high": 1.0, "knots": 2, "as": "line"}
    space = space_of(tied(line, {"as": "line"}))
    assert list(space.distributions()) == ["line[0]", "line[1]"]
    made = space.recipe_at({"line[0]": 0.25, "line[1]": 0.5})
    assert [model.parameters["weight"] for model in made.models or ()] == [(0.25, 0.5)] * 2

    either = {"choices": [0.25, [0.5, 1.0]], "as": "either"}
    space = space_of(tied(either, {"as": "either"}))
    label = space.parameters_of(tied([0.5, 1.0], [0.5, 1.0]))
    assert label == {"either": "[0.5, 1.0]"}

    sources = [{"model": model, "layer_range": [{"as": "first"}, 8]} for model in ("a", "b")]
    sources[0]["layer_range"] = [{"low": 0, "high": 4, "as": "first"}, 8]
    space = space_of({"merge_method": "linear", "slices": [{"sources": sources}], "parameters": {"weight": 1.0}})
    assert space.distributions() == {"first": IntDistribution(0, 4)}
    assert not space.fitting_extremes(lambda _: None)[1]  # apart, most pairs of layers would not fit each other


def test_whole_numbers_of_a_shared_parameter_stay_whole_everywhere() -> None:
    template = stack([{"low": 0, "high": 4, "as": "n"}, 8])
    template["parameters"] = {"scale": {"as": "n"}}
    assert space_of(template).distributions() == {"n": IntDistribution(0, 4)}
    template = stack([{"as": "n"}, 8])
    template["parameters"] = {"scale": {"low": 0.5, "high": 4, "as": "n"}}
    with pytest.raises(SearchError, match=r"layer_range\[0\].low: expected a whole number, got 0.5"):
        space_of(template)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (WEIGHT, {"low": 0.0, "high": 1.0, "as": "w"},
         r"recipe.models\[1\].parameters.weight: as: w is another range at recipe.models\[0\].parameters.weight; "),
        (WEIGHT, {"low": 0.0, "high": 2.0, "step": 0.5, "as": "w"}, r"models\[1\].*: as: w is another range"),
        (WEIGHT, {"as": "v"}, r"models\[1\].*weight: as: no range is called v; .*names are w"),
        ({"as": "v"}, 1.0, r"models\[0\].*: as: no range is called v; .*no range has a name"),
        ({"as": "a.b"}, 1.0, r"models\[0\].*: as: no range is called a.b"),
        (WEIGHT | {"as": "a.b"}, 1.0, r"models\[0\].*weight.as: expected a name of letters, .*got 'a.b'"),
        ({"as": 3}, 1.0, r"models\[0\].*weight.as: expected a word, got 3"),
        ({"high": 1, "as": "w"}, 1.0, r"weight: low is missing"),
        ({"low": 0, "high": 1, "as_": "w"}, 1.0, r"weight.as_: unknown key; did you mean 'as'"),
        ({"choices": [1, {"as": "w"}]}, 1.0, r"weight.choices\[1\]: a choice cannot hold a range"),
    ],
)  # fmt: skip
def test_a_name_that_stands_for_no_single_range_is_refused_by_key(first: Any, second: Any, message: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: .*{message}"):
        space_of(tied(first, second))


def test_a_name_is_not_the_key_of_another_range() -> None:
    template = tied(WEIGHT | {"as": "merge_method"}, 1.0)
    template["merge_method"] = {"choices": ["ties", "dare_ties"]}
    with pytest.raises(SearchError, match=r"models\[0\].*: as: merge_method is the key of another range"):
        space_of(template)


def test_a_warm_start_has_one_value_where_places_share_one() -> None:
    space = space_of(tied(WEIGHT, {"as": "w"}))
    with pytest.raises(
        SearchError, match=r"models\[1\].parameters.weight: is 0.5, but 0.25 in another place that shares"
    ):
        space.parameters_of(tied(0.25, 0.5))


def test_a_shared_parameter_is_that_of_the_place_that_is_read() -> None:
    template = recipe(density={"low": 0.1, "high": 0.4, "as": "both"}, gamma={"as": "both"})
    template["merge_method"] = {"choices": ["ties", "breadcrumbs"]}
    assert space_of(template).parameters_of(recipe(density=0.3))["both"] == 0.3


def test_a_token_may_be_called_as() -> None:
    tokens = {"source": "union", "tokens": {"as": {"source": "a"}}}
    template = recipe(density={"low": 0.1, "high": 1.0}) | {"tokenizer": tokens}
    assert list(space_of(template).distributions()) == [KEY]


# --- every kind of range under every sampler -------------------------------------------------------------------------

KINDS = {
    "density": {"low": 0.1, "high": 1.0, "step": 0.3},
    "weight": {"low": 0.01, "high": 2.0, "log": True, "knots": 2},
    "lambda": {"low": 1, "high": 3, "step": 1},
    "gamma": {"low": 0.7, "high": 1.0, "step": 0.1},
    "k": {"low": 1, "high": 64, "log": True},
    "epsilon": {"choices": [0.1, 0.2]},
}


@pytest.mark.parametrize(
    "sampler", [pytest.param(it, marks=[pytest.mark.slow] if it == "gp" else []) for it in SAMPLERS]
)
def test_what_a_sampler_draws_is_in_its_range_and_comes_back_from_the_recipe(sampler: str) -> None:
    template = recipe()
    template["models"][0]["parameters"] = dict(KINDS)
    template["models"][1]["parameters"] = {"weight": {"low": 0.01, "high": 2.0, "log": True, "as": "w"}}
    template["parameters"] = {"weight": {"as": "w"}}
    space = space_of(template)
    proposer, records = Proposer(sampler, 0, space.distributions()), []
    for number in range(14):  # TPE and GP draw ten at random before they model anything
        drawn = proposer.propose(number, [*records, TrialRecord("trial", number)])
        params = json.loads(json.dumps(dict(drawn.parameters)))  # as the store keeps them
        space.require(params)
        assert space.parameters_of(space.recipe_at(params).to_dict()) == pytest.approx(params)
        score = math.sin(number)
        scoring = Scoring("complete", "p", score, (score,))
        notes = drawn.sampler_notes
        records.append(TrialRecord("trial", number, parameters=params, search=scoring, sampler_notes=notes))
    whole = {type(record.parameters[name]) for record in records for name in
             ("models[0].parameters.k", "models[0].parameters.lambda")}  # fmt: skip
    assert whole == {int}
