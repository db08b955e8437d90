"""What a recipe names and is not there is missed by the file and the key."""

from __future__ import annotations

from typing import Any

import pytest

from merging import MergingError, ParentSet, Recipe
from tests.merging.conftest import Family


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("models[0].model", {"models": [{"model": "models/missing", "parameters": {"weight": 1.0}}]}),
        ("models[0].model", {"models": [{"model": "{a}+models/missing", "parameters": {"weight": 1.0}}]}),
        ("base_model", {"base_model": "models/missing"}),
        ("tokenizer_source", {"tokenizer_source": "models/missing"}),
        ("tokenizer.source", {"tokenizer": {"source": "models/missing"}}),
        ("models[0].model", {"models": [{"model": "./missing", "parameters": {"weight": 1.0}}]}),
        ("parameters.calibration", {"merge_method": "fisher", "parameters": {"calibration": "missing"}}),
    ],
)
def test_what_a_recipe_names_is_missed_by_the_file_and_the_key(
    family: Family, key: str, changes: dict[str, Any]
) -> None:
    models = [{"model": family.a, "parameters": {"weight": 1.0}}]
    plain = {"merge_method": "task_arithmetic", "base_model": family.base, "models": models} | changes
    if plain["merge_method"] == "fisher":
        del plain["base_model"]
    for model in plain["models"]:
        model["model"] = model["model"].replace("{a}", family.a)
    recipe = Recipe.from_dict(plain, "mine.yaml")
    with pytest.raises(MergingError) as caught:
        ParentSet.open(recipe)
    assert str(caught.value).startswith(f"mine.yaml: {key}: ")
    assert "missing: no such f" in str(caught.value)
