"""Layers: ``knots: layers``, a gradient with a knot per layer.

Guarantees: the word is replaced by the number of layers before the recipe becomes a space, so that parameters have the
same names wherever the space is read again, with or without the models. If the number cannot be known, an error names
the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from merging import LoadOptions, MergingError
from merging.checkpoints.references import parts_of
from merging.recipes.yaml_file import Keys, path_of
from search.errors import SearchError
from search.space.ranges import range_places, replaced

_KNOTS, _LAYERS = "knots", "layers"
_REMEDY = "give the number of knots"


class _UnknownError(Exception):
    """The number of layers cannot be known; the message says why."""


def depth_of(model: object, options: LoadOptions) -> int:
    """Return the number of layers that a model's config gives; with several stacks, that of the language model.

    Args:
        model: the model as in a recipe: a folder, a hub id, or a mapping that spells it out.
        options: what opening the model may do.

    Raises:
        MergingError: the model is missing or broken, or its config does not say it.
    """
    from merging.checkpoints.checkpoint import Checkpoint  # on demand: it imports torch

    config = Checkpoint.open("+".join(parts_of(model)), options).config
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise MergingError(f"model {'+'.join(parts_of(model))}: its config has no num_hidden_layers")
    return layers


def with_layers(recipe: Mapping[str, object], source: str, depth: Callable[[object], int]) -> dict[str, Any]:
    """Return a recipe with the number of layers instead of the word in ``knots: layers``.

    In a slice it is the slice's length, elsewhere the depth of the base model, or of the first model without a base.
    For a single layer, the gradient becomes a number.

    Args:
        recipe: the recipe as plain data, with its ranges.
        source: the file that has it under ``recipe``.
        depth: returns the number of layers of a model, given as in a recipe; raises MergingError.

    Raises:
        SearchError: the number is not known; the message names the key.
    """
    found = dict(recipe)
    for keys, node in range_places(recipe):
        if node.get(_KNOTS) != _LAYERS:
            continue
        try:
            layers = _layers(recipe, keys, depth)
        except (_UnknownError, MergingError) as error:
            where = path_of(("recipe", *keys, _KNOTS))
            raise SearchError(f"{source}: {where}: the number of layers is not known: {error}; {_REMEDY}") from None
        plain = {key: value for key, value in node.items() if key != _KNOTS}
        # Replaced, not changed: a YAML alias may share the range with another place that has other layers.
        found = replaced(found, keys, {**node, _KNOTS: layers} if layers > 1 else plain)
    return found


def _layers(recipe: Mapping[str, Any], keys: Keys, depth: Callable[[object], int]) -> int:
    """Return the number of layers that a parameter applies to."""
    holder, rest = recipe, keys
    if rest[0] == "modules" and len(rest) > 1:
        holder, rest = recipe["modules"][rest[1]], rest[2:]
    slices = holder.get("slices")
    if slices is not None:
        if not isinstance(slices, list):
            raise _UnknownError("the slices are searched")
        own = slices if rest[0] != "slices" else [slices[int(rest[1])]]
        return _only(length for part in own for length in _lengths(part))
    if holder is not recipe or "modules" in recipe:
        raise _UnknownError("a model of several stacks of layers has several such numbers")
    return _only(map(depth, _models(recipe)))


def _models(recipe: Mapping[str, Any]) -> Sequence[object]:
    """Return the base model or the first model; if it is searched, each choice."""
    models = recipe.get("models")
    given = [recipe.get("base_model"), *(each.get("model") for each in models or () if isinstance(each, dict))]
    for model in given if isinstance(models, list) else ():
        if isinstance(model, dict) and isinstance(model.get("choices"), list):
            return list(model["choices"])
        if model is not None and not (isinstance(model, dict) and "as" in model):
            return [model]
    raise _UnknownError("no model is given")


def _lengths(part: object) -> Iterator[int]:
    """Yield the possible lengths of a slice; its sources all have the same length."""
    match part:
        case {"sources": [{"layer_range": {"choices": [*choices]}}, *_]}:
            pass
        case {"sources": [{"layer_range": layers}, *_]}:
            choices = [layers]
        case _:
            raise _UnknownError("the slice has no layer_range")
    for choice in choices:
        match choice:
            case [int(first), int(end)]:
                yield end - first
            case _:
                raise _UnknownError("the layers of the slice are searched")


def _only(lengths: Iterable[int]) -> int:
    found = sorted(set(lengths))
    if len(found) != 1:
        raise _UnknownError(f"there are {' or '.join(map(str, found))}")
    return found[0]
