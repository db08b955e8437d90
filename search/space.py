"""The search space: a recipe in which some numbers are ranges.

A range stands wherever a recipe has a number: ``{low, high}`` for one number, ``{low, high, knots: n}`` for a gradient
of n numbers, ``{choices: [...]}`` for one of some values. Each searched number is an Optuna parameter, named by its
key's path.

Guarantees: `recipe_at` and `parameters_of` are inverse; the recipes at both ends of every range are valid, or reading
the space fails.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from merging import Recipe, suggest
from search.errors import SearchError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_RANGE_KEYS = ("low", "high", "knots", "log", "step", "choices")


@dataclass(frozen=True, slots=True)
class Range:
    """A place of the recipe that is searched: where it is, and what it may be."""

    path: str
    keys: tuple[str | int, ...] = field(repr=False)
    low: float = 0.0
    high: float = 0.0
    knots: int = 0  # 0 is a single number
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its Optuna parameters."""
        return tuple(f"{self.path}[{knot}]" for knot in range(self.knots)) if self.knots else (self.path,)

    @property
    def is_integer(self) -> bool:
        """Whether it is searched over whole numbers: low, high and step are such."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step))

    def distribution(self) -> BaseDistribution:
        """Return the distribution of each of its parameters."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, params: Mapping[str, Any]) -> Any:
        """Return what stands in the recipe for these parameters."""
        values = [params[name] for name in self.names]
        return values if self.knots else values[0]


@dataclass(frozen=True)
class SearchSpace:
    """A recipe with ranges.

    Attributes:
        template: the recipe as plain data, ranges in it.
        ranges: the ranges, in the recipe's order.
        source: the file that it was read from.
    """

    template: dict[str, Any]
    ranges: tuple[Range, ...]
    source: str

    @classmethod
    def read(cls, template: dict[str, Any], source: str) -> SearchSpace:
        """Find and check the ranges of a recipe. Raises SearchError or MergingError naming the key."""
        space = cls(template, tuple(_find(template, "recipe", (), source)), source)
        if not space.ranges:
            space.recipe_at({})  # so that a broken recipe is named as such first
            raise SearchError(
                f"{source}: recipe: holds no range, so there is nothing to search; write {{low: 0.0, high: 1.0}} "
                "in place of a number, or merge it with `merge-search merge`"
            )
        space.corners()
        return space

    def example(self) -> Recipe:
        """Return the recipe at the low end of every range."""
        return self.recipe_at(next(self._corners()))

    def corners(self) -> list[Recipe]:
        """Return the recipes at both ends of the ranges and at each choice; together they name every parent."""
        return [self.recipe_at(params) for params in self._corners()]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each searched number."""
        return {name: found.distribution() for found in self.ranges for name in found.names}

    def recipe_at(self, params: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these numbers in the places of the ranges. Raises MergingError if it is invalid."""
        data = copy.deepcopy(self.template)
        for found in self.ranges:
            _put(data, found.keys, found.value(params))
        return Recipe.from_dict(data, self.source, "recipe")

    def parameters_of(self, recipe: Mapping[str, Any], key: str = "recipe") -> dict[str, Any]:
        """Return the numbers that a concrete recipe has in the places of the ranges.

        A single number where the space has a gradient is that number at every knot; a gradient with other knots is
        taken over if the space's knots can draw the same line.

        Raises:
            SearchError: the recipe differs from the template elsewhere, or lies outside a range; names the key.
        """
        by_keys = {found.keys: found for found in self.ranges}
        params: dict[str, Any] = {}
        _match(self.template, recipe, (), by_keys, params, f"{self.source}: {key}")
        return params

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Yield parameters at both ends of every range, and at each choice."""
        low = {name: found.choices[0] if found.choices else found.low for found in self.ranges for name in found.names}
        yield low
        yield low | {name: found.high for found in self.ranges if not found.choices for name in found.names}
        for found in self.ranges:
            for choice in found.choices[1:]:
                yield low | {found.path: choice}


def _find(node: Any, path: str, keys: tuple[str | int, ...], source: str) -> Iterator[Range]:
    if isinstance(node, dict) and ({"low", "high", "knots", "choices"} & node.keys()):
        yield _read_range(node, path, keys, source)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _find(value, f"{path}.{name}", (*keys, name), source)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _find(value, f"{path}[{index}]", (*keys, index), source)


def _read_range(node: dict[str, Any], path: str, keys: tuple[str | int, ...], source: str) -> Range:
    def refuse(where: str, reason: str) -> SearchError:
        return SearchError(f"{source}: {where}: {reason}")

    name = path.removeprefix("recipe.")
    for key in node:
        if key not in _RANGE_KEYS:
            hint = suggest(str(key), _RANGE_KEYS)
            raise refuse(f"{path}.{key}", f"unknown key of a range{hint} (known: {', '.join(_RANGE_KEYS)})")
    if "choices" in node:
        choices = node["choices"]
        if len(node) > 1:
            raise refuse(path, "a range has either 'choices' or 'low' and 'high'")
        if not isinstance(choices, list) or len(choices) < 2:
            raise refuse(f"{path}.choices", f"expected a list of two values or more, got {choices!r}")
        if any(not isinstance(choice, bool | int | float | str) for choice in choices):
            raise refuse(f"{path}.choices", f"choices are numbers, words, true or false; got {choices!r}")
        return Range(name, keys, choices=tuple(choices))
    for key in ("low", "high"):
        if key not in node:
            raise refuse(f"{path}.{key}", "is missing; a range has 'low' and 'high'")
    numbers = {key: _number(node[key]) for key in ("low", "high", "step") if key in node}
    for key, number in numbers.items():
        if number is None:
            raise refuse(f"{path}.{key}", f"expected a number, got {node[key]!r}")
    low, high, step = numbers["low"] or 0, numbers["high"] or 0, numbers.get("step")
    knots, log = node.get("knots", 0), node.get("log", False)
    if low > high:
        raise refuse(path, f"low ({low:g}) is above high ({high:g}); exchange them")
    if low == high:
        raise refuse(path, f"low and high are both {low:g}; write the number itself")
    if "knots" in node and (isinstance(knots, bool) or not isinstance(knots, int) or knots < 2):
        raise refuse(
            f"{path}.knots", f"a gradient has 2 knots or more, got {knots!r}; leave 'knots' out for one number"
        )
    if not isinstance(log, bool):
        raise refuse(f"{path}.log", f"expected true or false, got {log!r}")
    if log and (low <= 0 or step is not None):
        raise refuse(path, "a logarithmic range needs a low above 0, and no step")
    if step is not None and not 0 < step <= high - low:
        raise refuse(f"{path}.step", f"expected a step between 0 and {high - low:g}, got {step!r}")
    return Range(name, keys, low, high, knots, log, step)


def _number(value: object) -> int | float | None:
    """Return a finite number, or None. YAML 1.1 reads 1e-3 as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _put(data: Any, keys: tuple[str | int, ...], value: Any) -> None:
    for key in keys[:-1]:
        data = data[key]
    data[keys[-1]] = value


def _match(
    template: Any,
    concrete: Any,
    keys: tuple[str | int, ...],
    ranges: Mapping[tuple[str | int, ...], Range],
    params: dict[str, Any],
    where: str,
) -> None:
    if found := ranges.get(keys):
        params.update(zip(found.names, _values(found, concrete, where), strict=True))
    elif isinstance(template, dict) and isinstance(concrete, Mapping):
        for name in [*template, *(name for name in concrete if name not in template)]:
            if name not in concrete or name not in template:
                wanted = f"expected {template[name]!r}" if name in template else "the searched recipe has no such key"
                raise SearchError(f"{where}.{name}: {wanted}; a warm start differs from it in the ranges alone")
            _match(template[name], concrete[name], (*keys, name), ranges, params, f"{where}.{name}")
    elif isinstance(template, list) and isinstance(concrete, list) and len(template) == len(concrete):
        for index, (one, other) in enumerate(zip(template, concrete, strict=True)):
            _match(one, other, (*keys, index), ranges, params, f"{where}[{index}]")
    elif template != concrete:
        raise SearchError(
            f"{where}: is {concrete!r}, but in the searched recipe {template!r}; a warm start differs from it "
            "in the ranges alone"
        )


def _values(found: Range, concrete: Any, where: str) -> list[Any]:
    if found.choices:
        if concrete not in found.choices:
            raise SearchError(f"{where}: {concrete!r} is none of the choices {list(found.choices)!r}")
        return [concrete]
    line = [_number(value) for value in (concrete if isinstance(concrete, list) and found.knots else [concrete])]
    if not line or None in line:
        what = "a number or a list of numbers" if found.knots else "a number"
        raise SearchError(f"{where}: expected {what}, got {concrete!r}")
    numbers = [number for number in line if number is not None]
    for number in numbers:
        if not found.low <= number <= found.high:
            raise SearchError(f"{where}: {number:g} is outside the range [{found.low:g}, {found.high:g}]")
    values = _resampled(numbers, found.knots, where) if found.knots else numbers
    for value in values:
        steps = (value - found.low) / found.step if found.step else 0.0
        if not math.isclose(steps, round(steps), abs_tol=1e-8):
            raise SearchError(f"{where}: {value:g} is not one of {found.low:g}, {found.low + (found.step or 0):g}, ...")
    return [int(value) if found.is_integer else float(value) for value in values]


def _resampled(line: list[float], knots: int, where: str) -> list[float]:
    wanted = [_at(line, knot / (knots - 1)) for knot in range(knots)]
    drawn = [_at(wanted, knot / max(len(line) - 1, 1)) for knot in range(len(line))]
    if any(not math.isclose(one, other, abs_tol=1e-9) for one, other in zip(drawn, line, strict=True)):
        raise SearchError(f"{where}: a gradient of {knots} knots cannot draw {line!r}; give the range as many knots")
    return wanted


def _at(line: list[float], t: float) -> float:
    position = t * (len(line) - 1)
    left = min(int(position), len(line) - 1)
    right = min(left + 1, len(line) - 1)
    return line[left] + (position - left) * (line[right] - line[left])
