"""The model card of an export."""

from __future__ import annotations

import math

import yaml

from merging.methods import METHODS
from merging.recipes.recipe import Recipe


def model_card(recipe: Recipe, name: str, random_seed: int, evidence: str = "") -> str:
    """Return a model card: metadata as the hub reads it, the recipe, and what is known about its scores."""
    front = [
        "---",
        "base_model:",
        yaml.safe_dump(list(recipe.parents()), allow_unicode=True, width=math.inf).rstrip(),
        "library_name: transformers",
    ]
    in_mergekit = METHODS[recipe.merge_method].in_mergekit
    front += ["tags:", "- merge", *(["- mergekit"] if in_mergekit else []), "- merge-search", "---"]
    again = f"`merge-search merge recipe.yaml DIR --random-seed {random_seed}` makes it again"
    again = f"`mergekit-yaml recipe.yaml DIR` or {again}." if in_mergekit else f"{again}; mergekit has no such method."
    body = f"""
# {name}

A merge of {len(recipe.parents())} models by the method `{recipe.merge_method}`, made with merge-search. Architecture
and config are those of `{recipe.config_source}`.
{evidence}
## Recipe

{again}

```yaml
{recipe.to_yaml().rstrip()}
```
"""
    return "\n".join(front) + "\n" + body
