"""The model card of an export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from merging.checkpoints.named import REFERENCES, references_in
from merging.checkpoints.references import parts_of, renamed, short_names
from merging.methods import METHODS
from merging.recipes.recipe import Recipe


def model_card(
    recipe: Recipe,
    name: str,
    random_seed: int,
    evidence: str = "",
    *,
    metadata: Mapping[str, object] | None = None,
    sections: str = "",
) -> str:
    """Return a model card: metadata for the hub, the recipe, and the evidence of its scores.

    Models in folders appear under short names, since local paths mean nothing to others.

    Args:
        recipe: the merge.
        name: the merge's name.
        random_seed: the seed that it is made with.
        evidence: sections about its scores, in Markdown; each begins with an empty line.
        metadata: what is known of the parents; by default their names, as `base_model`.
        sections: further sections, after the recipe.
    """
    names = _names(recipe)
    known = {"base_model": [renamed(parent, names) for parent in recipe.parents()]} if metadata is None else metadata
    in_mergekit = METHODS[recipe.merge_method].in_mergekit
    tags = ["merge", *(["mergekit"] if in_mergekit else []), "merge-search"]
    front = yaml.safe_dump(
        {**known, "library_name": "transformers", "tags": tags}, allow_unicode=True, width=math.inf, sort_keys=False
    )
    again = f"`merge-search merge recipe.yaml DIR --random-seed {random_seed}` makes it again"
    again = f"`mergekit-yaml recipe.yaml DIR` or {again}." if in_mergekit else f"{again}; mergekit has no such method."
    count = len(recipe.parents())
    models = f"{count} models" if count > 1 else "one model"
    body = f"""
# {name}

A merge of {models} by the method `{recipe.merge_method}`, made with merge-search. Architecture
and config are those of `{renamed(recipe.config_source, names)}`.
{evidence}
## Recipe

{again}

```yaml
{recipe.to_yaml(names).rstrip()}
```
{sections}"""
    return f"---\n{front}---\n{body}"


def _names(recipe: Recipe) -> Mapping[str, str]:
    """Return the card's names for models and files, by their references; hub ids stay."""
    references = [reference for _, reference in references_in(recipe.to_dict(), REFERENCES.keys())]
    parts = [part for each in references for part in ([each] if Path(each).exists() else parts_of(each))]
    return {part: part for part in parts} | short_names(part for part in parts if Path(part).exists())
