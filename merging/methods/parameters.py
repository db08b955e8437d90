"""Parameters: what a method declares, and the values that one tensor has."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import TypeAdapter

Number: TypeAlias = bool | int | float | str


class Scope(enum.Enum):
    """Who has a value of a parameter: the tensor, each input, or each input other than the base."""

    SHARED = "shared"
    INPUT = "input"
    NON_BASE = "non_base"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method: its name in YAML, type, legal interval and default.

    `default` is None for a required parameter. With `optional`, None is what the method sees.
    """

    key: str
    kind: type[bool] | type[int] | type[float] | type[str]
    scope: Scope
    default: Number | None = None
    optional: bool = False
    low: float = -math.inf
    high: float = math.inf

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is None and not self.optional

    def refuses(self, value: object) -> str | None:
        """Return why `value` cannot be this parameter's, or None if it can."""
        try:
            number = self.read(value)
        except ValueError:
            return f"expected {_KIND_NAMES[self.kind]}, got {value!r}"
        if isinstance(number, float) and not math.isfinite(number):
            return f"{value!r} is not finite"
        if self.kind is not str and not self.low <= float(number) <= self.high:
            return f"{value!r} is outside [{self.low:g}, {self.high:g}]"
        return None

    def read(self, value: object) -> Number:
        """Convert a YAML value (``1``, ``'1e-3'``, ``true``) to this parameter's type. Raises ValueError."""
        if isinstance(value, self.kind) and type(value) is self.kind:
            return value
        if isinstance(value, bool) and self.kind is not bool:
            raise ValueError(f"{value} is no number")
        number: Number = _ADAPTERS[self.kind].validate_python(value)
        return number


# As in mergekit: words for true and false, numbers in quotes.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (bool, int, float, str)}
_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, slots=True)
class ParameterValues:
    """The parameter values of one tensor: shared ones by key, per-input ones by key in the order of the inputs."""

    shared: Mapping[str, Number | None]
    per_input: Mapping[str, tuple[Number | None, ...]]

    def number(self, key: str) -> float:
        """Return a shared number."""
        return float(self.shared[key] or 0.0)

    def flag(self, key: str) -> bool:
        """Return a shared true or false."""
        return bool(self.shared[key])

    def each(self, key: str) -> tuple[float, ...]:
        """Return one number per input."""
        return tuple(float(value or 0.0) for value in self.per_input[key])
