"""Ranges: what may stand in a recipe in place of a value that is searched.

``{low, high}`` is a number, and a whole one where the recipe takes no other (a layer's index) or with ``step: 1``;
``{low, high, knots: n}`` is a gradient of n numbers; ``{choices: [...]}`` is one of some values, whatever they are: a
method, a model, a layer range, a list of slices.

Guarantees: what is read as a range is one, or the error names the key; `value` and `parameters_of` are inverse.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from merging.errors import shown, suggest
from search.errors import SearchError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Keys: TypeAlias = tuple[str | int, ...]

_RANGE_KEYS = ("low", "high", "knots", "log", "step", "choices")
# What other programs call the keys of a range.
_ALIASES = {
    **dict.fromkeys(("min", "minimum", "lower", "lo", "from", "start"), "low"),
    **dict.fromkeys(("max", "maximum", "upper", "hi", "to", "end", "stop"), "high"),
    **dict.fromkeys(("options", "values", "choice", "categories"), "choices"),
}
# Keys of a recipe under which there are only whole numbers. (Not read off the methods, which would bring torch.)
WHOLE = ("layer_range", "pad_to_multiple_of", "token_id", "max_iter", "k", "iterations")


@dataclass(frozen=True, slots=True)
class Range:
    """A place of the recipe that is searched: where it is, and what it may be."""

    path: str
    keys: Keys = field(repr=False)
    low: float = 0.0
    high: float = 0.0
    knots: int = 0  # 0 is a single number
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    whole: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its Optuna parameters."""
        return tuple(f"{self.path}[{knot}]" for knot in range(self.knots)) if self.knots else (self.path,)

    def distribution(self) -> BaseDistribution:
        """Return the distribution of each of its parameters."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution([_label(choice) for choice in self.choices])
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, params: Mapping[str, Any]) -> Any:
        """Return what stands in the recipe for these parameters."""
        values = [params[name] for name in self.names]
        if self.choices:
            return next(choice for choice in self.choices if _label(choice) == values[0])
        return values if self.knots else values[0]

    def ends(self) -> list[dict[str, Any]]:
        """Return the parameters at both of its ends, or at each choice."""
        values = [_label(choice) for choice in self.choices] or [self.low, self.high]
        return [dict.fromkeys(self.names, value) for value in values]

    def draw(self, numbers: random.Random) -> dict[str, Any]:
        """Return parameters somewhere in it."""
        return {name: self._draw(numbers) for name in self.names}

    def parameters_of(self, concrete: Any, where: str) -> dict[str, Any]:
        """Return the parameters that give what stands in a recipe. Raises SearchError if it is outside the range."""
        if self.choices:
            if concrete not in self.choices:
                raise SearchError(f"{where}: {shown(concrete)} is none of the choices {list(self.choices)!r}")
            return {self.path: _label(self.choices[self.choices.index(concrete)])}
        return dict(zip(self.names, self._numbers_of(concrete, where), strict=True))

    def _draw(self, numbers: random.Random) -> Any:
        if self.choices:
            return _label(numbers.choice(self.choices))
        if self.whole or self.step:
            step = self.step or 1
            return self.low + step * numbers.randint(0, int((self.high - self.low) / step + 1e-9))
        return numbers.uniform(self.low, self.high)

    def _numbers_of(self, concrete: Any, where: str) -> list[float]:
        line = [_number(value) for value in (concrete if isinstance(concrete, list) and self.knots else [concrete])]
        if not line or None in line:
            what = "a number or a list of numbers" if self.knots else "a number"
            raise SearchError(f"{where}: expected {what}, got {concrete!r}")
        numbers = [number for number in line if number is not None]
        for number in numbers:
            if not self.low <= number <= self.high:
                raise SearchError(f"{where}: {number:g} is outside the range [{self.low:g}, {self.high:g}]")
        values = _resampled(numbers, self.knots, where) if self.knots else numbers
        step = self.step or (1 if self.whole else None)
        for value in values:
            steps = (value - self.low) / step if step else 0.0
            if not math.isclose(steps, round(steps), abs_tol=1e-8):
                raise SearchError(f"{where}: {value:g} is not one of {self.low:g}, {self.low + (step or 0):g}, ...")
        return [int(value) if self.whole else float(value) for value in values]


def find_ranges(node: Any, path: str, source: str, keys: Keys = ()) -> Iterator[Range]:
    """Yield the ranges of a recipe in its order; `path` is where it stands in `source`. Raises SearchError."""
    if _is_range(node, keys):
        yield _read_range(node, path, keys, source)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from find_ranges(value, f"{path}.{name}", source, (*keys, name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from find_ranges(value, f"{path}[{index}]", source, (*keys, index))


def _is_range(node: Any, keys: Keys = ()) -> bool:
    """Whether something is a range, or, in the place of a number, was meant to be one."""
    known = {"low", "high", "knots", "choices"}
    # A token may be called anything, but stands in the place of no number.
    known |= _ALIASES.keys() if "parameters" in keys or any(key in WHOLE for key in keys) else set()
    return isinstance(node, dict) and bool(known & node.keys())


def _holds_range(node: Any) -> bool:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return _is_range(node) or any(map(_holds_range, inner))


def _label(choice: Any) -> Any:
    """Return what Optuna stores of a choice: words and numbers as they are, and everything else as JSON."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, ensure_ascii=False)


def _read_range(node: dict[str, Any], path: str, keys: Keys, source: str) -> Range:
    name = path.removeprefix("recipe.")
    for key in node:
        if key not in _RANGE_KEYS:
            hint = f"; did you mean {_ALIASES[key]!r}?" if key in _ALIASES else suggest(str(key), _RANGE_KEYS)
            _refuse(source, f"{path}.{key}", f"unknown key of a range{hint} (known: {', '.join(_RANGE_KEYS)})")
    if "choices" in node:
        if len(node) > 1:
            _refuse(source, path, "a range has either 'choices' or 'low' and 'high'")
        return Range(name, keys, choices=_read_choices(node["choices"], f"{path}.choices", source))
    low, high, step = _read_numbers(node, path, source)
    knots, log = node.get("knots", 0), node.get("log", False)
    if low > high:
        _refuse(source, path, f"low ({low:g}) is above high ({high:g}); exchange them")
    if low == high:
        _refuse(source, path, f"low and high are both {low:g}; write the number itself")
    if "knots" in node and (isinstance(knots, bool) or not isinstance(knots, int) or knots < 2):
        _refuse(
            source,
            f"{path}.knots",
            f"a gradient has 2 knots or more, got {knots!r}; leave 'knots' out for one number",
        )
    if not isinstance(log, bool):
        _refuse(source, f"{path}.log", f"expected true or false, got {log!r}")
    if log and (low <= 0 or step is not None):
        _refuse(source, path, "a logarithmic range needs a low above 0, and no step")
    if step is not None and not 0 < step <= high - low:
        _refuse(source, f"{path}.step", f"expected a step between 0 and {high - low:g}, got {step!r}")
    if step is not None and not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-8):
        last = low + step * int((high - low) / step)
        _refuse(source, f"{path}.high", f"no number of steps of {step:g} leads from {low:g} to {high:g}; say {last:g}")
    whole = any(key in WHOLE for key in keys)
    if whole:
        _check_whole(node, path, source)
    return Range(name, keys, low, high, knots, log, step, (), whole or _are_whole(low, high, step))


def _read_choices(choices: object, path: str, source: str) -> tuple[Any, ...]:
    if not isinstance(choices, list) or len(choices) < 2:
        _refuse(source, path, f"expected a list of two values or more, got {shown(choices)}")
    for index, choice in enumerate(choices):
        if not isinstance(choice, bool | int | float | str | list | dict):
            _refuse(source, f"{path}[{index}]", f"expected a number, a word, a list or a mapping, got {choice!r}")
        if choice in choices[:index]:
            _refuse(source, f"{path}[{index}]", f"{shown(choice)} is given twice")
        if _holds_range(choice):
            _refuse(source, f"{path}[{index}]", "a choice cannot hold a range; write its values out as choices")
    return tuple(choices)


def _read_numbers(node: dict[str, Any], path: str, source: str) -> tuple[float, float, float | None]:
    for key in ("low", "high"):
        if key not in node:
            _refuse(source, f"{path}.{key}", "is missing; a range has 'low' and 'high'")
    numbers = {key: _number(node[key]) for key in ("low", "high", "step") if key in node}
    for key, number in numbers.items():
        if number is None:
            _refuse(source, f"{path}.{key}", f"expected a number, got {node[key]!r}")
    return numbers["low"] or 0, numbers["high"] or 0, numbers.get("step")


def _check_whole(node: dict[str, Any], path: str, source: str) -> None:
    for key in ("low", "high", "step"):
        if key in node and not isinstance(node[key], int):
            _refuse(source, f"{path}.{key}", f"expected a whole number, got {node[key]!r}")
    if "knots" in node:
        _refuse(source, f"{path}.knots", "there is no gradient of whole numbers")


def _are_whole(*numbers: object) -> bool:
    return all(isinstance(number, int) for number in numbers)


def _refuse(source: str, where: str, reason: str) -> NoReturn:
    raise SearchError(f"{source}: {where}: {reason}")


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


def _resampled(line: Sequence[float], knots: int, where: str) -> list[float]:
    wanted = [_at(line, knot / (knots - 1)) for knot in range(knots)]
    drawn = [_at(wanted, knot / max(len(line) - 1, 1)) for knot in range(len(line))]
    if any(not math.isclose(one, other, abs_tol=1e-9) for one, other in zip(drawn, line, strict=True)):
        raise SearchError(f"{where}: a gradient of {knots} knots cannot draw {line!r}; give the range as many knots")
    return wanted


def _at(line: Sequence[float], t: float) -> float:
    position = t * (len(line) - 1)
    left = min(int(position), len(line) - 1)
    right = min(left + 1, len(line) - 1)
    return line[left] + (position - left) * (line[right] - line[left])
