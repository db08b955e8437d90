"""Parameters of a searched recipe that nothing reads: varying them would waste trials.

Guarantees: a reported parameter changes no tensor of the candidates that were checked: the extreme recipes, and some
random ones if the space has several structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any

from merging import Merger, Recipe
from merging.planning.parameter_lookup import structure_of
from merging.recipes.yaml_file import Keys
from merging.unread_parameters import NO_PARAMETER, unread, unread_notes
from search.progress import Progress
from search.space.space import SearchSpace

# The random recipes that are checked if methods, models or layers are searched: some parameters are read only under a
# combination of choices.
_DRAWS = 20


def unread_lines(
    space: SearchSpace,
    merger: Merger,
    extremes: Sequence[Recipe],
    progress: Progress,
) -> list[str]:
    """Return one line per parameter of the recipe, searched or not, that no candidate reads.

    Args:
        space: the search space.
        merger: merges its recipes.
        extremes: the extreme recipes of the space, all of which can be merged.
        progress: shows how far the parents are compared with the base.
    """
    compared = partial(progress.count, "comparing the parents", "tensors")
    reasons: dict[Keys, dict[str, None]] = {}
    read: set[Keys] = set()
    for recipe in _telling(space, merger, extremes, lambda: bool(reasons.keys() - read)):
        for keys, reason in unread(recipe, merger.plan(recipe), merger.parents, read, compared).items():
            if not reason:
                read.add(keys)
            reasons.setdefault(keys, {})[reason] = None
    found = {_in(space.template, keys): "" if keys in read else _told(each) for keys, each in reasons.items()}
    return unread_notes(found, lambda key: f"{space.source}: recipe.{key}")


def _told(reasons: Iterable[str]) -> str:
    """Join the reasons; that a method does not have the parameter counts only if there is no other reason."""
    return "; ".join([each for each in reasons if NO_PARAMETER not in each] or reasons)


def _telling(
    space: SearchSpace, merger: Merger, extremes: Sequence[Recipe], in_doubt: Callable[[], bool]
) -> Iterator[Recipe]:
    """Yield the recipes at both ends of all ranges, one per structure, and, while in doubt, random ones."""
    yield from extremes[:2]
    by_structure = {_structure(recipe): recipe for recipe in extremes}
    yield from (recipe for recipe in by_structure.values() if recipe not in extremes[:2])
    if len(by_structure) > 1 and in_doubt():
        yield from takewhile(lambda _: in_doubt(), islice(space.drawn(merger.steps), _DRAWS))


def _structure(recipe: Recipe) -> object:
    """Return what distinguishes a recipe besides its numbers: its structure, switches and words."""
    structure, values = structure_of(recipe)
    return structure, tuple(None if type(value) in (int, float) else value for value in values)


def _in(template: Any, keys: Keys) -> Keys:
    """Return where a parameter is in the template, which may have a single filter without the list around it."""
    found: list[str | int] = []
    for key in keys:
        if isinstance(template, dict) and isinstance(key, int) and "value" in template:
            continue
        found.append(key)
        inside = (isinstance(template, dict) and key in template) or isinstance(template, list)
        template = template[key] if inside else None
    return tuple(found)
