"""Numbers of a searched recipe that nothing reads, so that a search would vary them in vain.

Guarantees: what is named changes no tensor of any candidate that was looked at: of the extremes, and, where more than
numbers is searched, of some that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any

from merging import Merger, Recipe
from merging.unread import NO_PARAMETER, Keys, unread, unread_notes
from search.space.space import SearchSpace
from search.views.progress import Progress

# How many recipes are drawn where a method, a model or a layer is searched, too: two choices may have to meet.
_DRAWS = 20


def unread_lines(
    space: SearchSpace,
    merger: Merger,
    extremes: Sequence[Recipe],
    progress: Progress,
) -> list[str]:
    """Return a line for each number of a searched recipe, itself searched or not, that no candidate reads.

    Args:
        space: the search space.
        merger: merges its recipes.
        extremes: recipes of the space that can be merged, in which every choice stands.
        progress: told while a parent is compared with the base.
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
    """Return the reasons in one; that some of the methods do not know a number is told if nothing else is."""
    return "; ".join([each for each in reasons if NO_PARAMETER not in each] or reasons)


def _telling(
    space: SearchSpace, merger: Merger, extremes: Sequence[Recipe], in_doubt: Callable[[], bool]
) -> Iterator[Recipe]:
    """Yield the recipes that tell most: both ends of all ranges, every choice, and, while in doubt, some drawn ones."""
    yield from extremes[:2]
    forms = {repr(_form(recipe.to_dict())): recipe for recipe in extremes}
    yield from (recipe for recipe in forms.values() if recipe not in extremes[:2])
    if len(forms) > 1 and in_doubt():
        yield from takewhile(lambda _: in_doubt(), islice(space.drawn(merger.steps), _DRAWS))


def _form(node: Any, of_method: bool = False) -> Any:
    """Return what a recipe's plain data is without the numbers of its method; a choice of yes or no is none."""
    if isinstance(node, list):
        return [_form(value, of_method) for value in node]
    if isinstance(node, dict):
        return {name: _form(value, of_method or name == "parameters") for name, value in node.items()}
    return None if of_method and type(node) in (int, float) else node


def _in(template: Any, keys: Keys) -> Keys:
    """Return where a number stands in the template, in which a single filter may have no list around it."""
    found: list[str | int] = []
    for key in keys:
        if isinstance(template, dict) and isinstance(key, int) and "value" in template:
            continue
        found.append(key)
        inside = (isinstance(template, dict) and key in template) or isinstance(template, list)
        template = template[key] if inside else None
    return tuple(found)
