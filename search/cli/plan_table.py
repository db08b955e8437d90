"""The tables of --dry-run: the ranges of a search, and a plan, layer by layer, with equal steps in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from merging.checkpoints.layer_names import LayerName
from search.board.names import parameter_name, shown_value
from search.views.table import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from merging.methods.declarations import Number
    from merging.planning.plan import Step
    from search.space.ranges import Range

# From this width on there is room for the keys as the config has them.
_WIDE = 100


def ranges_table(ranges: Sequence[Range], recipe: Mapping[str, object], names: Mapping[str, str], width: int) -> Table:
    """Return a table of the ranges, by the model that they belong to.

    Args:
        ranges: the ranges.
        recipe: a recipe of the space, as plain data.
        names: the displayed names of models, by reference.
        width: the width of the terminal.
    """
    table = plain_table("searched", "", "range", "knots", "scale", *(["key"] if width >= _WIDE else []))
    before, known = "", set[str]()
    for found in ranges:
        label, word = parameter_name(found.path, recipe, names)
        between = f"{found.low:g} to {found.high:g}"
        if found.choices:
            between = " | ".join(_shown(choice, names) for choice in found.choices)
        if found.name:
            between = f"{found.name}, as above" if found.name in known else f"{found.name}: {between}"
            known.add(found.name)
        cells = ["" if label == before else label, word, between, str(found.knots or ""), _scale(found), found.path]
        table.add_row(*map(_text, cells[: len(table.columns)]))
        before = label
    return table


def _scale(found: Range) -> str:
    if found.log:
        return "logarithmic"
    if found.whole:
        return "whole numbers" if found.step in (None, 1) else f"whole, steps of {found.step:g}"
    return f"steps of {found.step:g}" if found.step else ""


@dataclass(frozen=True, slots=True)
class _AlikeTensors:
    """Tensors that are made alike, in consecutive layers whose parameters lie on a line.

    Attributes:
        head: the part of the names before the layer's index; empty for tensors outside the layers.
        layers: the first and the last layer.
        tensors: their names within a layer; empty if they are all of its tensors.
        first: a step of the first layer.
        last: a step of the last layer.
    """

    head: str
    layers: tuple[int, int]
    tensors: str
    first: Step
    last: Step


def plan_table(steps: Sequence[Step], names: Mapping[str, str], dtype: str | None) -> tuple[str, Table]:
    """Return a line with what all steps of a merge share, and a table of the rest with a line per group of tensors.

    Args:
        steps: the steps.
        names: the displayed names of models, by reference.
        dtype: the recipe's dtype.
    """
    groups = list(_merged(_groups(steps)))
    rows = [(_name(group), _sources(group, names), _parameters(group, names)) for group in groups]
    keys = list(dict.fromkeys(key for _, _, found in rows for key in found))
    varied = [key for key in keys if len({found.get(key) for _, _, found in rows}) > 1]
    sources = list(dict.fromkeys(source for _, source, _ in rows))
    step = steps[0]
    common = [f"{key} {rows[0][2][key]}" for key in keys if key not in varied]
    line = f"{step.method} of {sources[0]}" if len(sources) == 1 else step.method
    line = f"{line}, in {dtype}" if dtype else line
    table = plain_table("tensors", *(["of"] if len(sources) > 1 else []), *varied)
    for name, source, found in rows:
        cells = [name, *([source] if len(sources) > 1 else []), *(found.get(key, "") for key in varied)]
        table.add_row(*map(_text, cells))
    return ": ".join([line, *([", ".join(common)] if common else [])]), table


def _groups(steps: Sequence[Step]) -> Iterator[_AlikeTensors]:
    """Yield the groups of each layer, and of each run of tensors outside the layers."""
    for (head, index), run in groupby(steps, lambda step: _place(step.name)[:2]):
        of_layer = list(run)
        alike: dict[object, list[Step]] = {}
        for step in of_layer:
            alike.setdefault((_made_of(step), *_values(step)), []).append(step)
        for found in alike.values():
            tensors = [_short(_place(step.name)[2]) for step in found]
            every = [_short(_place(step.name)[2]) for step in of_layer]
            name = ", ".join(_parts(tensors, every) if head else tensors)
            yield _AlikeTensors(head, (index, index), name if tensors != every or not head else "", found[0], found[0])


def _merged(groups: Iterator[_AlikeTensors]) -> Iterator[_AlikeTensors]:
    """Yield the groups; those of consecutive layers become one if each group of the first continues in the next."""
    waiting: list[_AlikeTensors] = []
    for _, run in groupby(groups, lambda group: (group.head, group.layers)):
        layer = list(run)
        if len(waiting) == len(layer) and all(map(_goes_on, waiting, layer)):
            waiting = [
                replace(group, layers=(group.layers[0], after.layers[1]), last=after.last)
                for group, after in zip(waiting, layer, strict=True)
            ]
        else:
            yield from waiting
            waiting = layer
    yield from waiting


def _goes_on(group: _AlikeTensors, after: _AlikeTensors) -> bool:
    """Whether the next layer's tensors are made as those of a group, with parameters on the same line."""
    if not group.head or (group.head, group.tensors) != (after.head, after.tensors):
        return False
    if _made_of(group.first) != _made_of(after.first):
        return False
    layers = group.layers[1] - group.layers[0]
    lines = zip(*map(_values, (group.first, group.last, after.first)), strict=True)
    return all(_is_on(layers, *values) for values in lines)


def _is_on(layers: int, first: Number | None, last: Number | None, after: Number | None) -> bool:
    if isinstance(first, float) and isinstance(last, float) and isinstance(after, float):
        return not layers or math.isclose(after, last + (last - first) / layers, rel_tol=1e-9, abs_tol=1e-9)
    return first == after


def _values(step: Step) -> list[Number | None]:
    return [value for _, value in step.shared] + [value for _, values in step.per_input for value in values]


def _place(name: str) -> tuple[str, int, str]:
    """Split a tensor's name at its layer's index: the part before it, the index, the part after it."""
    return LayerName.of(name) or ("", 0, name)


def _made_of(step: Step) -> object:
    """Return all of a step but its layer and its parameters."""
    own = _place(step.name)[1]
    sources = tuple(
        (source.parent, _place(source.tensor)[1] - own, source.tensor.partition("@")[2]) for source in step.sources()
    )
    return step.method, step.base and step.base.parent, sources


def _parts(tensors: Sequence[str], every: Sequence[str]) -> Iterator[str]:
    """Yield names for some tensors of a layer: a module's name stands for all or most of its tensors."""
    for part in dict.fromkeys(name.partition(".")[0] for name in tensors):
        own, all_of_it = ([name for name in names if name.partition(".")[0] == part] for names in (tensors, every))
        if len(own) == len(all_of_it):
            yield part
        elif 2 * len(own) > len(all_of_it):
            yield f"other {part}"
        else:
            yield from own


def _name(group: _AlikeTensors) -> str:
    if not group.head:
        return group.tensors
    first, last = group.layers
    layers = f"{_short(group.head.rstrip('.'))} {first}" + (f"-{last}" if last > first else "")
    return f"{layers}: {group.tensors}" if group.tensors else layers


def _short(tensor: str) -> str:
    return tensor.removeprefix("model.").removesuffix(".weight")


def _sources(group: _AlikeTensors, names: Mapping[str, str]) -> str:
    """Return the models that a group is made of, with their layers if those differ from the merge's."""

    def named(parent: str, tensor: str) -> str:
        first, last = group.layers
        begin, vocabulary = _place(tensor)[1], tensor.partition("@")[2].partition("-")[0]
        name = names.get(parent, parent) + (f" (rows by {vocabulary})" if vocabulary else "")
        if not group.head or begin == first:
            return name
        return f"{name} {begin}" + (f"-{begin + last - first}" if last > first else "")

    inputs = ", ".join(named(*source) for source in group.first.inputs)
    return inputs + (f" onto {named(*group.first.base)}" if group.first.base else "")


def _parameters(group: _AlikeTensors, names: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a group by key, those of several inputs in order, as first layer→last layer."""

    def shown(first: Number | None, last: Number | None) -> str:
        both = dict.fromkeys(_shown(each, names) for each in (first, last))
        return "→".join(both)

    (first, last), found = (group.first, group.last), {}
    for (key, one), (_, two) in zip(first.shared, last.shared, strict=True):
        if one is not None:
            found[key] = shown(one, two)
    for (key, ones), (_, twos) in zip(first.per_input, last.per_input, strict=True):
        if any(one is not None for one in ones):
            found[key] = " ".join(map(shown, ones, twos))
    return found


def _shown(value: object, names: Mapping[str, str]) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else shown_value(value, names)


def _text(cell: str) -> Text:
    return Text(cell, overflow="fold")
