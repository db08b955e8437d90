"""Around: ranges around the numbers of a recipe that has none, for `merge-search run RECIPE.yaml --around 0.2`.

Guarantees: the recipe lies in the space, and is its first warm start. Each end of a range is legal for the method if
all other numbers are the recipe's. The same file and fraction give the same config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from merging import MergingError, Recipe
from merging.recipes.yaml_file import Dumper, Keys, path_of
from search.errors import SearchError
from search.shell import shell_command
from search.space.config import located, located_enqueue, located_evaluation
from search.space.ranges import at, range_places, replaced
from search.space.sections import YAML, Sections

if TYPE_CHECKING:
    from merging.methods import Parameter

_RECIPE, _EVALUATION, _SEARCH, _PARAMETERS = "recipe", "evaluation", "search", "parameters"
# The significant digits of the ends.
_DIGITS = 6
# The fractions of the way to an end that are tried, since with the other numbers the method may refuse a farther one.
_PARTS = (1.0, 0.5, 0.25, 0.125)


def config_around(path: Path, fraction: float) -> str:
    """Return the text of a config that searches around the numbers of a recipe.

    Args:
        path: a mergekit recipe, or a config whose recipe has no range and whose other sections are kept.
        fraction: how far each range reaches to either side, as a fraction of its number, in (0, 1). Around 0 it reaches
            up only, by that fraction of the largest number in its gradient, or of 1.

    Raises:
        SearchError, MergingError: the recipe is not valid, has a range, or has no number of its method; the message
            names the key.
    """
    data = YAML.parse(YAML.text(path), str(path))
    is_config = isinstance(data, dict) and _RECIPE in data
    given: dict[str, Any] = dict(data) if isinstance(data, dict) and is_config else {_RECIPE: data}
    if found := next(range_places(given[_RECIPE], (_RECIPE,)), None):
        where = path_of(found[0] if is_config else found[0][1:])
        raise SearchError(f"{path}: {where}: is a range already; run it without --around, or write a value there")
    plain = Recipe.from_dict(given[_RECIPE], str(path), _RECIPE if is_config else "")
    sections = Sections.of(given, str(path))
    places = [path.parent, Path()]
    recipe = located(given[_RECIPE], places)
    searched = recipe
    for keys, low, high in _ranges(recipe, plain.merge_method, fraction):
        searched = replaced(searched, keys, {"low": low, "high": high})
    if searched == recipe:
        raise SearchError(
            f"{path}: --around: the recipe has no number of {plain.merge_method} to search around; write one, such as "
            "weight: 1.0 under the parameters of each model"
        )
    made = {**given, _RECIPE: searched}
    if _EVALUATION in given:
        made[_EVALUATION] = located_evaluation(sections.evaluation, places).model_dump(exclude_unset=True)
    enqueue = [recipe, *(located_enqueue(entry, places) for entry in sections.search.enqueue)]
    made[_SEARCH] = {**(given.get(_SEARCH) or {}), "enqueue": enqueue}
    command = shell_command("run", Path(path.name), "--around", f"{fraction:g}")
    head = f"# Made by {command}; the results folder keeps it as config.yaml.\n"
    return head + yaml.dump(
        made, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120, Dumper=Dumper
    )


def _ranges(recipe: Mapping[str, Any], merge_method: str, fraction: float) -> Iterator[tuple[Keys, float, float]]:
    """Yield the keys of each number that the method takes, and the ends of a range around it."""
    from merging.methods import METHODS  # on demand: they import torch

    for keys in _scalars(recipe):
        parameter = METHODS[merge_method].parameter(str(keys[keys.index(_PARAMETERS) + 1]))
        if parameter is None or parameter.kind not in (int, float):
            continue
        number = _Number(recipe, keys, parameter)
        reach = fraction * (abs(number.value) or number.largest or 1.0)
        low, high = number.end(-reach if number.value else 0.0), number.end(reach)
        if low <= number.value <= high and low < high:
            yield keys, low, high


def _scalars(node: object, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of each value of a parameter."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name != "filter":
                yield from _scalars(value, (*keys, name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _scalars(value, (*keys, index))
    elif node is not None and _PARAMETERS in keys:
        yield keys


@dataclass(frozen=True)
class _Number:
    """A number of a valid recipe, at its keys, and the parameter that it belongs to."""

    recipe: Mapping[str, Any]
    keys: Keys
    parameter: Parameter

    @property
    def value(self) -> float:
        return self._read(at(self.recipe, self.keys))

    @property
    def largest(self) -> float:
        """The largest absolute value in the gradient that it is part of."""
        line = at(self.recipe, self.keys[:-1])
        return max(abs(self._read(each)) for each in line) if isinstance(line, list) else 0.0

    def end(self, reach: float) -> float:
        """Return the number that lies `reach` away, or as far as it and the number halfway there are legal."""
        for part in _PARTS:
            wanted = min(max(self.value + part * reach, self.parameter.low), self.parameter.high)
            found = self._rounded(wanted)
            if self._is_legal(found) and self._is_legal(self._rounded((self.value + found) / 2)):
                return found
        return self.value

    def _rounded(self, wanted: float) -> float:
        if self.parameter.kind is int:
            return ceil(wanted) if wanted < self.value else floor(wanted)
        return float(f"{wanted:.{_DIGITS}g}")

    def _is_legal(self, number: float) -> bool:
        changed = replaced(self.recipe, self.keys, number)
        try:
            Recipe.from_dict(changed, "the recipe")
        except MergingError:
            return False
        return True

    def _read(self, value: object) -> float:
        number = self.parameter.read(value)
        assert isinstance(number, int | float)
        return number
