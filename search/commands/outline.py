"""What --dry-run shows: what is searched, and a plan with equal steps in one line, layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from search.numbers import place_of, shown_value

if TYPE_CHECKING:
    from rich.table import Table

    from merging.methods.registry import Number
    from merging.planning.plan import Step
    from search.space.ranges import Range

_LAYER = re.compile(r"^(?P<head>(?:[^.]*[^.\d][^.]*\.)+)(?P<index>\d+)\.(?P<tail>.*)$")
# From this width on there is room for the keys as the config has them.
_WIDE = 100


def ranges_table(ranges: Sequence[Range], recipe: Mapping[str, Any], names: Mapping[str, str], width: int) -> Table:
    """Return what is searched: whose number, which, and between what.

    Args:
        ranges: the ranges.
        recipe: a recipe of the space, as plain data.
        names: what models are called, by their reference.
        width: of the screen.
    """
    table = _table("searched", "", "range", "knots", "scale", *(["key"] if width >= _WIDE else []))
    before = ""
    for found in ranges:
        label, word = place_of(found.path, recipe, names)
        between = f"{found.low:g} to {found.high:g}"
        if found.choices:
            between = " | ".join(_shown(choice, names) for choice in found.choices)
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
class _Group:
    """Tensors that are made alike, in one layer or in several that follow each other, with numbers along a line.

    Attributes:
        head: what stands before the index of the layers; of tensors in no layer nothing.
        layers: the layers, from the first to the last.
        tensors: what they are called in each layer; nothing if they are all of it.
        first: how one of the first layer is made.
        last: how one of the last layer is made.
    """

    head: str
    layers: tuple[int, int]
    tensors: str
    first: Step
    last: Step


def plan_table(steps: Sequence[Step], names: Mapping[str, str], dtype: str | None) -> tuple[str, Table]:
    """Return what all steps of a merge have in common as a line, and a table of the rest, a line per group of tensors.

    Args:
        steps: the steps.
        names: what models are called, by their reference.
        dtype: the recipe's.
    """
    groups = list(_merged(_groups(steps)))
    rows = [(_name(group), _sources(group, names), _numbers(group, names)) for group in groups]
    keys = list(dict.fromkeys(key for _, _, numbers in rows for key in numbers))
    varied = [key for key in keys if len({numbers.get(key) for _, _, numbers in rows}) > 1]
    sources = list(dict.fromkeys(source for _, source, _ in rows))
    step = steps[0]
    common = [f"{key} {rows[0][2][key]}" for key in keys if key not in varied]
    line = f"{step.method} of {sources[0]}" if len(sources) == 1 else step.method
    line = f"{line}, in {dtype}" if dtype else line
    table = _table("tensors", *(["of"] if len(sources) > 1 else []), *varied)
    for name, source, numbers in rows:
        cells = [name, *([source] if len(sources) > 1 else []), *(numbers.get(key, "") for key in varied)]
        table.add_row(*map(_text, cells))
    return ": ".join([line, *([", ".join(common)] if common else [])]), table


def _groups(steps: Sequence[Step]) -> Iterator[_Group]:
    """Yield the groups of each layer, and of each run of tensors in no layer."""
    for (head, index), run in groupby(steps, lambda step: _place(step.name)[:2]):
        of_layer = list(run)
        alike: dict[object, list[Step]] = {}
        for step in of_layer:
            alike.setdefault((_made_of(step), *_all_numbers(step)), []).append(step)
        for found in alike.values():
            tensors = [_short(_place(step.name)[2]) for step in found]
            every = [_short(_place(step.name)[2]) for step in of_layer]
            name = ", ".join(_parts(tensors, every) if head else tensors)
            yield _Group(head, (index, index), name if tensors != every or not head else "", found[0], found[0])


def _merged(groups: Iterator[_Group]) -> Iterator[_Group]:
    """Yield the groups, those of layers that follow each other in one where all groups of the layers go on alike."""
    waiting: list[_Group] = []
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


def _goes_on(group: _Group, after: _Group) -> bool:
    """Whether the tensors of the next layer are made as those of a group, and their numbers lie on the same line."""
    if not group.head or (group.head, group.tensors) != (after.head, after.tensors):
        return False
    if _made_of(group.first) != _made_of(after.first):
        return False
    layers = group.layers[1] - group.layers[0]
    lines = zip(*map(_all_numbers, (group.first, group.last, after.first)), strict=True)
    return all(_is_on(layers, *numbers) for numbers in lines)


def _is_on(layers: int, first: Number | None, last: Number | None, after: Number | None) -> bool:
    if isinstance(first, float) and isinstance(last, float) and isinstance(after, float):
        return not layers or math.isclose(after, last + (last - first) / layers, rel_tol=1e-9, abs_tol=1e-9)
    return first == after


def _all_numbers(step: Step) -> list[Number | None]:
    return [value for _, value in step.shared] + [value for _, values in step.per_input for value in values]


def _place(name: str) -> tuple[str, int, str]:
    """Return what stands before a layer's index in a tensor's name, the index, and the rest."""
    match = _LAYER.match(name)
    return (match["head"], int(match["index"]), match["tail"]) if match else ("", 0, name)


def _made_of(step: Step) -> object:
    """Return all that a step has but its layer and its numbers."""
    own = _place(step.name)[1]
    sources = tuple(
        (source.parent, _place(source.tensor)[1] - own, source.tensor.partition("@")[2]) for source in step.sources()
    )
    return step.method, step.base and step.base.parent, sources


def _parts(tensors: Sequence[str], every: Sequence[str]) -> Iterator[str]:
    """Yield what some of the tensors of a layer are called: a module's name for all that it has, or for the most."""
    for part in dict.fromkeys(name.partition(".")[0] for name in tensors):
        own, all_of_it = ([name for name in names if name.partition(".")[0] == part] for names in (tensors, every))
        if len(own) == len(all_of_it):
            yield part
        elif 2 * len(own) > len(all_of_it):
            yield f"other {part}"
        else:
            yield from own


def _name(group: _Group) -> str:
    if not group.head:
        return group.tensors
    first, last = group.layers
    layers = f"{_short(group.head.rstrip('.'))} {first}" + (f"-{last}" if last > first else "")
    return f"{layers}: {group.tensors}" if group.tensors else layers


def _short(tensor: str) -> str:
    return tensor.removeprefix("model.").removesuffix(".weight")


def _sources(group: _Group, names: Mapping[str, str]) -> str:
    """Return the models that a group is made of, with their layers where they are not the merge's own."""

    def named(parent: str, tensor: str) -> str:
        first, last = group.layers
        begin, vocabulary = _place(tensor)[1], tensor.partition("@")[2].partition("-")[0]
        name = names.get(parent, parent) + (f" (rows by {vocabulary})" if vocabulary else "")
        if not group.head or begin == first:
            return name
        return f"{name} {begin}" + (f"-{begin + last - first}" if last > first else "")

    inputs = ", ".join(named(*source) for source in group.first.inputs)
    return inputs + (f" onto {named(*group.first.base)}" if group.first.base else "")


def _numbers(group: _Group, names: Mapping[str, str]) -> dict[str, str]:
    """Return the numbers of a group by key, those of several inputs in their order; first layer→last layer."""

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


def _text(cell: str) -> Any:
    from rich.text import Text

    return Text(cell, overflow="fold")


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table
