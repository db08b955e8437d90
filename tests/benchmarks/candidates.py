"""What the benchmarks merge: recipes with gradients, and candidates of them as a search makes them."""

from __future__ import annotations

import re
from typing import Any

from merging import Recipe
from tests.merging.conftest import Family
from tests.merging.recipes import recipes

METHODS = ("ties", "dare_ties", "slerp", "linear", "task_arithmetic", "della", "breadcrumbs")


def benchmark_recipes(family: Family) -> dict[str, str]:
    """Return the recipes by method; gradients in all of them."""
    texts = recipes(family, "bfloat16")
    like_ties = {
        name: texts["ties"].replace("merge_method: ties", f"merge_method: {name}")
        for name in ("dare_ties", "della", "breadcrumbs")
    }
    # DELLA's probabilities must lie within (0, 1), for every candidate.
    like_ties["della"] = re.sub(
        r"density: (\[.*?\]|[^,]*),", "density: [0.8, 0.5, 0.3], epsilon: 0.1,", like_ties["della"]
    )
    return {name: (texts | like_ties)[name] for name in METHODS}


def candidate(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with every number of its parameters made a little smaller, as a search changes them."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return value * (1 - 0.01 * number) if isinstance(value, float | int) and not isinstance(value, bool) else value

    plain = recipe.to_dict()
    for holder in (plain, *plain["models"]):
        if "parameters" in holder:
            holder["parameters"] = changed(holder["parameters"])
    return Recipe.from_dict(plain, source=f"candidate {number}")
