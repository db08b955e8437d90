"""What candidates are compared with."""

from __future__ import annotations

import pytest

from merging import Recipe
from search import SearchConfig
from search.run.setup import reference_models
from search.study.record import TrialRecord
from tests.search.family import Family


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.parse(shared_family.config(), folder=shared_family.folder)


def test_reference_models_are_each_parent_and_the_average_of_the_merged_ones(
    config: SearchConfig, shared_family: Family
) -> None:
    *parents, average = reference_models(config)
    names = [str(shared_family.a), str(shared_family.b), str(shared_family.base)]
    assert [(record.key, record.name) for record in parents] == [
        (f"parent-{number}", name) for number, name in enumerate(names)
    ]
    assert average.key == "average"
    assert Recipe.from_dict(average.recipe, "the average").parents() == tuple(names[:2])


def test_models_that_only_some_choices_use_are_parents_too(shared_family: Family) -> None:
    recipe = """
  merge_method: linear
  models:
    - {model: {choices: [a, b]}, parameters: {weight: 1}}
    - {model: base, parameters: {weight: 1}}
"""
    config = SearchConfig.parse(shared_family.config(recipe=recipe), folder=shared_family.folder)
    assert [record.kind for record in reference_models(config)].count("parent") == 3


def test_one_model_has_no_average(shared_family: Family) -> None:
    recipe = """
  merge_method: task_arithmetic
  base_model: base
  models:
    - {model: a, parameters: {weight: {low: 0, high: 1}}}
"""
    config = SearchConfig.parse(shared_family.config(recipe=recipe), folder=shared_family.folder)
    a, base = str(shared_family.a), str(shared_family.base)
    assert reference_models(config) == [
        TrialRecord("parent", 0, a, recipe=Recipe.single(a).to_dict()),
        TrialRecord("parent", 1, base, recipe=Recipe.single(base).to_dict()),
    ]
