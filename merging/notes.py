"""Notes: sentences for the user about a merge before it is made."""

from __future__ import annotations

from merging.parents import ParentSet
from merging.planning.plan import Plan
from merging.recipes.recipe import Recipe
from merging.unread_parameters import unread, unread_notes


def notes_of(recipe: Recipe, plan: Plan, parents: ParentSet, *, written: bool = False) -> list[str]:
    """Return all notes on one merge: on its parents, and on parameters that have no effect.

    Args:
        recipe: the merge.
        plan: the plan of its structure.
        parents: its parents, open.
        written: whether it is written to disk with the generation config of its config source.
    """
    source = recipe.config_source if written else None
    return [*parent_notes(parents, source), *unread_notes(unread(recipe, plan, parents), recipe.at)]


def parent_notes(parents: ParentSet, config_source: str | None = None) -> list[str]:
    """Return the notes on parents: their differences, and their generation settings, which scoring ignores.

    Args:
        parents: the open parents.
        config_source: the model whose generation_config.json is written with the merge; None if nothing is written.
    """
    ending = "scoring ignores that" if config_source is None else "the merge's files leave it out"
    return [
        *parents.notes,
        *(
            f"model {name}: its generation_config.json asks for {settings}; "
            + ("so do the merge's files, but scores were made without it" if name == config_source else ending)
            for name, checkpoint in parents.checkpoints.items()
            if (settings := checkpoint.generation_settings)
        ),
    ]
