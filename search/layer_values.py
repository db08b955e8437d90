"""Layer values: what each parameter of a merge is in each layer.

Guarantees: the values are the merger's own, read from its steps. Only the headers of the parents' files are read, and
nothing is downloaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import Recipe, parts_named, renamed
from merging.checkpoints.layer_names import LayerName
from merging.recipes.settings import Conditional, Setting, knots_at
from search.contents import on_disk
from search.errors import SearchError

if TYPE_CHECKING:
    from merging import LoadOptions
    from merging.planning.plan import Step


@dataclass(frozen=True, slots=True)
class Curve:
    """A parameter of one input over the layers of a merge; only numeric parameters have one.

    Attributes:
        model: the reference of the input; empty for a parameter that all inputs share.
        parameter: its key, such as ``density``.
        tensors: the tensors of a layer that have these values, by the ends of their names.
        is_whole: whether these are all the tensors of a layer.
        values: the value in each layer; None in a layer without the model.
        outside: the values that tensors outside of all layers have (embeddings, head).
    """

    model: str
    parameter: str
    tensors: tuple[str, ...]
    is_whole: bool
    values: tuple[float | None, ...]
    outside: tuple[float, ...]


def layer_values(
    recipes: Sequence[Mapping[str, object]], identity: Mapping[str, Any], results: Path, load: LoadOptions
) -> Iterator[tuple[Curve, ...]]:
    """Yield the curves of each of some recipes of a search.

    Args:
        recipes: the recipes, as plain data.
        identity: the search's identity.
        results: its results folder.
        load: what opening the parents may do.

    Raises:
        SearchError: a parent is not on this disk. MergingError: one is broken, or does not fit.
    """
    from merging import MergeOptions, Merger, ParentSet

    places = on_disk(identity, results)
    names = {place: name for name, place in places.items()}
    read = [Recipe.from_dict(renamed(recipe, places), str(results)) for recipe in recipes]
    for parent in dict.fromkeys(parent for recipe in read for parent in recipe.parents()):
        if not parts_named(parent, names):  # else it would be looked up on the hub
            raise SearchError(f"{results}: model {parent}: is not on this disk")
    if read:
        with ParentSet.open(read, MergeOptions(memory_budget=0, load=load)) as parents:
            merger = Merger(parents)
            for recipe in read:
                yield tuple(_curves(merger.steps(recipe), names))


def knot_values(recipe: Mapping[str, object], results: Path) -> tuple[Curve, ...]:
    """Return the curves of a recipe whose parents are not at hand, over the knots of its gradients instead of layers.

    Empty for a recipe of slices or modules, because a gradient spans other layers in each.
    """
    read = Recipe.from_dict(recipe, str(results))
    found = []
    for each in read.models or ():
        for key, setting in each.parameters.items():
            items = setting if isinstance(setting, tuple) else (setting,)
            filters = [item.filter for item in items if isinstance(item, Conditional)] or [None]
            for name in filters:
                knots = tuple(_knots(setting, name or ""))
                outside = tuple(value for value in knots[:1] if value is not None)
                if outside:
                    found.append(Curve(each.model, key, (name,) if name else (), not name, knots, outside))
    return tuple(found)


def _knots(setting: Setting, tensor: str) -> Iterator[float | None]:
    """Yield a setting's values at the knots of the gradient that applies to a tensor; at both ends if it has none."""
    items = setting if isinstance(setting, tuple) else (setting,)
    own = next((item.value for item in items if isinstance(item, Conditional) and item.fits(tensor)), setting)
    count = max(len(own) if isinstance(own, tuple) else 1, 2)
    for place in range(count):
        knots = knots_at(setting, tensor, place / (count - 1))
        value = knots.value(lambda read: read) if knots else None
        yield float(value) if isinstance(value, int | float) else None


def _curves(steps: Sequence[Step], names: Mapping[str, str]) -> Iterator[Curve]:
    """Yield the curves of the steps of a merge; tensors that have the same values in all layers share one."""
    inside: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    outside: dict[tuple[str, str], set[float]] = defaultdict(set)
    depths, tails = defaultdict[str, int](int), defaultdict[str, set[str]](set)
    for step in steps:
        found = LayerName.of(step.name)
        stack, layer, tail = found or ("", -1, "")
        depths[stack] = max(depths[stack], layer + 1)
        tails[stack].add(tail)
        for model, key, value in _numbers(step):
            if found:
                inside[stack, model, key][tail][layer] = value
            else:
                outside[model, key].add(value)
    for (stack, model, key), of_tails in inside.items():
        alike: dict[tuple[float | None, ...], list[str]] = defaultdict(list)
        for tail, values in of_tails.items():
            alike[tuple(map(values.get, range(depths[stack])))].append(tail)
        for line, ends in alike.items():
            name = "+".join(names[part] for part in parts_named(model, names))
            is_whole = tails[stack] == set(ends)
            yield Curve(name, key, tuple(ends), is_whole, line, tuple(sorted(outside[model, key])))


def _numbers(step: Step) -> Iterator[tuple[str, str, float]]:
    """Yield the numeric parameters of a step: the model's reference, the key, and the value."""
    for key, shared in step.shared:
        if isinstance(shared, int | float) and not isinstance(shared, bool):
            yield "", key, float(shared)
    for key, values in step.per_input:
        for source, value in zip(step.inputs, values, strict=True):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield source.parent, key, float(value)
