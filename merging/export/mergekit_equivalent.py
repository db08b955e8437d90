"""Equivalents for mergekit: whether it can read a recipe, and if not, an equivalent recipe that it can read.

By default, a merge by a method that mergekit lacks is exported with a recipe that only merge-search reads. On demand,
the export is a checkpoint beside a task-arithmetic recipe from which mergekit 0.1.5 makes the same tensors.
"""

from __future__ import annotations

from collections.abc import Set
from functools import reduce
from pathlib import Path

import torch

from merging.checkpoints.references import split_reference
from merging.errors import MergingError
from merging.methods import METHODS
from merging.recipes.recipe import Recipe
from merging.recipes.schema import InputModel

DELTA = "delta"
"""The folder of the merge as a checkpoint, in an export that mergekit can read."""

_WIDER = {torch.bfloat16: "float32", torch.float16: "float32", torch.float32: "float64", torch.float64: "float64"}


def notice(merge_method: str) -> str | None:
    """Return a line that says that mergekit lacks a method, or None if it has it."""
    if METHODS[merge_method].in_mergekit:
        return None
    return (
        f"{merge_method} is not a method of mergekit, so mergekit cannot read this recipe; "
        "--mergekit-compatible exports an equivalent that it can read"
    )


def equivalent(recipe: Recipe, delta: Path, dtypes: Set[torch.dtype], same_shapes: bool) -> Recipe:
    """Return a recipe with which mergekit makes the tensors of a merge from its checkpoint.

    It is base + (checkpoint - base) in a wider dtype than the checkpoint's, so that the difference is exact. A merge
    whose depth or vocabulary differs from the base's is passed through, and so is one with several dtypes, which a
    recipe cannot express. Leaves out an adapter of the base: any tensors of these shapes will do.

    Args:
        recipe: the merge.
        delta: the folder of the merge as a checkpoint.
        dtypes: the dtypes of the tensors of the merge's output.
        same_shapes: whether the merge has as many layers as the base, and its vocabulary.

    Raises:
        MergingError: mergekit would not read the path as a folder.
    """
    if "+" in str(delta) or "@" in str(delta):
        raise MergingError(
            f"{delta.parent}: mergekit reads + and @ in a path as an adapter and a revision; choose another folder"
        )
    widest = reduce(torch.promote_types, dtypes)
    name = str(widest).removeprefix("torch.") if len(dtypes) == 1 else None
    if not (same_shapes and name):
        # mergekit also takes the tokenizer from there, with its chat template.
        return Recipe.single(str(delta), None).model_copy(update={"out_dtype": name})
    config_source, _ = split_reference(recipe.config_source)
    base = Path(config_source)
    return Recipe.model_validate(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(base.resolve()) if base.exists() else config_source,
            "models": (InputModel(model=str(delta), parameters={"weight": 1.0}),),
            "dtype": _WIDER[widest],
            "out_dtype": name,
            "chat_template": recipe.chat_template,
        }
    )


def mergekit_card(recipe: Recipe, written: Recipe, name: str) -> str:
    """Return the model card of an export that mergekit can read."""
    return f"""---
library_name: transformers
tags:
- merge
- mergekit
- merge-search
---

# {name}

The model in `{DELTA}/` is a merge by the method `{recipe.merge_method}`, which mergekit does not have;
`{DELTA}/README.md` says how it was made. `mergekit-yaml recipe.yaml DIR` makes the same tensors from it. If you moved
the folder, first change its path in the recipe.

```yaml
{written.to_yaml().rstrip()}
```
"""
