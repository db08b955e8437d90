"""Ranges: they replace values of a recipe that are searched.

``{low, high}`` is a number, and a whole one with ``step: 1`` or if the recipe takes no other (a layer's index);
``{low, high, knots: n}`` is a gradient of n numbers; ``{choices: [...]}`` is one of several values of any kind: a
method, a model, a layer range, a list of slices. With ``as: name`` a range has a name, and ``{as: name}`` in another
place means the same value.

Guarantees: an invalid attempt at a range is an error that names the key; `value` and `parameters_of` are inverse.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    field_validator,
    model_validator,
)

from merging import YamlReader
from merging.errors import shown
from merging.recipes.parameter_types import parameter_types
from merging.recipes.yaml_file import Keys, path_of
from search.errors import SearchError
from search.study.record import Parameters, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_YAML = YamlReader("config", SearchError)
# Other programs' names for the keys of a range.
_ALIASES = {
    **dict.fromkeys(("min", "minimum", "lower", "lo", "from", "start"), "low"),
    **dict.fromkeys(("max", "maximum", "upper", "hi", "to", "end", "stop"), "high"),
    **dict.fromkeys(("options", "values", "choice", "categories"), "choices"),
}
_AS = "as"
_NAME = re.compile(r"[^\W\d][\w-]*")
# Keys outside of parameters that take whole numbers.
_WHOLE = ("layer_range", "pad_to_multiple_of", "token_id")


def at(data: Any, keys: Keys) -> Any:
    """Return the value at some keys of plain data."""
    for key in keys:
        data = data[key]
    return data


def replaced(data: Any, keys: Keys, value: object) -> Any:
    """Return plain data with another value at some keys; parts that are not on the way there are shared."""
    if not keys:
        return value
    other = copy.copy(data)
    other[keys[0]] = replaced(data[keys[0]], keys[1:], value)
    return other


def _number(value: object) -> float:
    """Read a finite number. Raises ValueError. (YAML 1.1 takes 1e-3 for text.)"""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"expected a number, got {value!r}")
    return number


FiniteNumber: TypeAlias = Annotated[float, PlainValidator(_number)]


def _choice(value: object) -> object:
    if not isinstance(value, bool | int | float | str | list | dict):
        raise ValueError(f"expected a number, a word, a list or a mapping, got {value!r}")
    if any(range_places(value)):
        raise ValueError("a choice cannot hold a range; list its values as choices")
    return value


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, '-' and '_', got {name!r}")
    return name


def _distinct(choices: tuple[object, ...]) -> tuple[object, ...]:
    if twice := [choice for index, choice in enumerate(choices) if choice in choices[:index]]:
        raise ValueError(f"{shown(twice[0])} is given twice")
    return choices


class Range(BaseModel):
    """A place of the recipe that is searched, and its possible values."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: FiniteNumber = 0.0
    high: FiniteNumber = 0.0
    knots: int = Field(default=0, ge=2, strict=True)  # 0 is a single number
    log: bool = Field(default=False, strict=True)
    step: FiniteNumber | None = None
    choices: Annotated[tuple[Annotated[object, AfterValidator(_choice)], ...], AfterValidator(_distinct)] = Field(
        default=(), min_length=2
    )
    name: Annotated[str, AfterValidator(_named)] = Field(default="", alias="as")
    _keys: Keys = PrivateAttr(default=())

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        low, high, step = self.low, self.high, self.step
        if self.choices and self.model_fields_set - {"choices", "name"}:
            raise ValueError("a range has either 'choices' or 'low' and 'high'")
        if self.choices:
            return self
        if missing := [key for key in ("low", "high") if key not in self.model_fields_set]:
            raise ValueError(f"{missing[0]} is missing; a range has 'low' and 'high'")
        if low > high:
            raise ValueError(f"low ({low:g}) is above high ({high:g}); swap them")
        if low == high:
            raise ValueError(f"low and high are both {low:g}; write the number itself")
        if self.log and (low <= 0 or step != (1 if self.whole else None)):
            raise ValueError("a logarithmic range needs a low above 0, and no step")
        if step is not None and not 0 < step <= high - low:
            raise ValueError(f"expected a step between 0 and {high - low:g}, got {step:g}")
        if step and not _is_whole((high - low) / step):
            last = low + step * int((high - low) / step)
            raise ValueError(f"no number of steps of {step:g} leads from {low:g} to {high:g}; set high to {last:g}")
        return self

    @property
    def keys(self) -> Keys:
        """The keys that lead to it in the recipe."""
        return self._keys

    @property
    def path(self) -> str:
        """The path of its key."""
        return path_of(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its Optuna parameters; ranges of the same name share them."""
        name = self.name or self.path
        return tuple(f"{name}[{knot}]" for knot in range(self.knots)) or (name,)

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return not self.choices and all(isinstance(number, int) for number in (self.low, self.high, self.step))

    def distribution(self) -> BaseDistribution:
        """Return the distribution of each of its parameters."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self._ends())
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, params: Parameters) -> object:
        """Return the value in the recipe for these parameters."""
        values = [params[name] for name in self.names]
        if self.choices:
            return self.choices[self._ends().index(values[0])]
        return values if self.knots else values[0]

    def ends(self) -> list[dict[str, Value]]:
        """Return the parameters at both of its ends, or at each choice."""
        return [dict.fromkeys(self.names, value) for value in self._ends()]

    def middle(self) -> dict[str, Value]:
        """Return the parameters in its middle, or the first choice."""
        if self.choices:
            return self.ends()[0]
        if self.log and not self.step:
            return dict.fromkeys(self.names, math.sqrt(self.low * self.high))
        step = self.step or 0
        middle = self.low + step * round((self.high - self.low) / step / 2) if step else (self.low + self.high) / 2
        return dict.fromkeys(self.names, middle)

    def draw(self, numbers: random.Random) -> dict[str, Value]:
        """Return random parameters in it."""
        return {name: self._draw(numbers) for name in self.names}

    def parameters_of(self, concrete: object, where: str) -> dict[str, Value]:
        """Return the parameters that give a concrete value. Raises SearchError if it is outside the range."""
        try:
            values = self._chosen(concrete) if self.choices else self._numbers_of(concrete)
        except ValueError as error:
            raise SearchError(f"{where}: {error}") from None
        return dict(zip(self.names, values, strict=True))

    def require(self, params: Parameters) -> None:
        """Raise KeyError, TypeError or ValueError if these are not parameters in it."""
        for name in self.names:
            if not self.choices:
                self._require_inside(params[name])
            elif params[name] not in self._ends():
                raise ValueError(f"{params[name]!r} is not one of the choices")

    def _ends(self) -> Sequence[Value]:
        return [_label(choice) for choice in self.choices] or [self.low, self.high]

    def _draw(self, numbers: random.Random) -> Value:
        if self.choices:
            return numbers.choice(self._ends())
        if self.step:
            steps = numbers.randint(0, round((self.high - self.low) / self.step))
            return min(self.low + self.step * steps, self.high)  # a rounded end may lie outside
        return numbers.uniform(self.low, self.high)

    def _chosen(self, concrete: object) -> Sequence[Value]:
        if concrete not in self.choices:
            raise ValueError(f"{shown(concrete)} is not one of the choices {list(self.choices)!r}")
        return [self._ends()[self.choices.index(concrete)]]

    def _numbers_of(self, concrete: object) -> Sequence[float]:
        line = [_number(value) for value in (concrete if isinstance(concrete, list) and self.knots else [concrete])]
        values = _resampled(line, self.knots) if self.knots else line
        for value in values:
            self._require_inside(value)
        return [int(value) if self.whole else float(value) for value in values]

    def _require_inside(self, value: Value) -> None:
        if isinstance(value, str):
            raise TypeError(f"expected a number, got {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{value:g} is outside the range [{self.low:g}, {self.high:g}]")
        if self.step and not _is_whole((value - self.low) / self.step):
            raise ValueError(f"{value:g} is not one of {self.low:g}, {self.low + self.step:g}, ...")


class WholeRange(Range):
    """A range in a place where the recipe takes only whole numbers."""

    low: int = Field(default=0, strict=True)
    high: int = Field(default=0, strict=True)
    step: int = Field(default=1, strict=True)

    @field_validator("knots")
    @classmethod
    def _is_no_gradient(cls, knots: int) -> int:
        raise ValueError(f"whole numbers cannot form a gradient, got {knots} knots")


def find_ranges(recipe: Mapping[str, object], source: str) -> Sequence[Range]:
    """Return the ranges of a recipe in its order; `source` is the file that has it under ``recipe``.

    Raises SearchError.
    """
    places = dict(range_places(recipe))
    named: dict[str, Range] = {}
    for keys, node in places.items():
        if node.keys() == {_AS}:
            continue
        found = _read(keys, node, source)
        first = named.setdefault(found.name, found) if found.name else found
        if (first.model_dump(), first.whole) != (found.model_dump(), found.whole):
            raise SearchError(
                f"{source}: {path_of(('recipe', *keys))}: as: {found.name} is another range at recipe.{first.path}; "
                f"write {{as: {found.name}}} here, or give one of them another name"
            )
    ranges = [_read(keys, _spelled_out(keys, node, named, source), source) for keys, node in places.items()]
    for found in ranges:
        if found.name and found.name in {other.path for other in ranges}:
            raise SearchError(
                f"{source}: {path_of(('recipe', *found.keys))}: as: {found.name} is the key of another range; give it "
                "another name"
            )
    return ranges


def _read(keys: Keys, node: Mapping[str, object], source: str) -> Range:
    is_whole = any(key in _WHOLE or parameter_types().get(str(key)) == "int" for key in keys)
    where = ("recipe", *keys)
    if alias := next((key for key in node if key in _ALIASES), None):
        reason = f"unknown key of a range; did you mean {_ALIASES[alias]!r}?"
        raise SearchError(f"{source}: {path_of((*where, alias))}: {reason}")
    found = _YAML.validate(WholeRange if is_whole else Range, node, source, path_of(where))
    found._keys = keys
    return found


def _spelled_out(
    keys: Keys, node: Mapping[str, object], named: Mapping[str, Range], source: str
) -> Mapping[str, object]:
    """Return a range; for a mere name, the range of that name."""
    name = node.get(_AS)
    if node.keys() != {_AS} or not isinstance(name, str):
        return node
    if name not in named:
        where = path_of(("recipe", *keys))
        known = f"the names are {', '.join(named)}" if named else "no range has a name"
        raise SearchError(f"{source}: {where}: as: no range is called {name}; give low and high here ({known})")
    found = named[name]
    return found.model_dump(by_alias=True, include=found.model_fields_set | ({"step"} if found.whole else set()))


def range_places(node: object, keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, object]]]:
    """Yield the ranges in plain data, and mappings in the place of a number that were meant to be one."""
    known = {"low", "high", "knots", "choices"}
    # A token may have any of these names, but is never in the place of a number.
    known |= {_AS, *_ALIASES} if {"parameters", *_WHOLE} & set(keys) else set()
    if isinstance(node, dict) and (known & node.keys() or isinstance(node.get(_AS), str)):
        yield keys, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from range_places(value, (*keys, key))


def _label(choice: object) -> Value:
    """Return a choice as Optuna stores it: words and numbers as they are, everything else as JSON."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, ensure_ascii=False)


def _is_whole(steps: float) -> bool:
    return math.isclose(steps, round(steps), abs_tol=1e-8)


def _resampled(line: Sequence[float], knots: int) -> list[float]:
    """Return the values at the knots that give the same line. Raises ValueError if there are none."""
    if not line:
        raise ValueError("expected a number or a list of numbers, got []")
    if len(line) == knots:
        return list(line)
    wanted = [_at(line, knot / (knots - 1)) for knot in range(knots)]
    drawn = [_at(wanted, knot / max(len(line) - 1, 1)) for knot in range(len(line))]
    if any(not math.isclose(one, other, abs_tol=1e-9) for one, other in zip(drawn, line, strict=True)):
        raise ValueError(f"a gradient of {knots} knots cannot draw {line!r}; give the range as many knots")
    return wanted


def _at(line: Sequence[float], t: float) -> float:
    position = t * (len(line) - 1)
    left = min(int(position), len(line) - 1)
    right = min(left + 1, len(line) - 1)
    return line[left] + (position - left) * (line[right] - line[left])
