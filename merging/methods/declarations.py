"""Declarations: the parameters of a method, as the signature of its function declares them.

    def average(operands: Operands, weight: PerInput[float], normalize: Shared[bool] = Default(True)) -> ...

declares two. An argument is named after its key in YAML; `lambda_` stands for `lambda`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from types import NoneType
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

Number: TypeAlias = bool | int | float | str
# The parameters of one tensor by key: a value that holds for the tensor, or one per input.
ParameterValues: TypeAlias = Mapping[str, Number | tuple[Number | None, ...] | None]


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
            raise ValueError(f"{value} is not a number")
        number: Number = _ADAPTERS[self.kind].validate_python(value)
        return number


# As in mergekit: words for true and false, numbers in quotes.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (bool, int, float, str)}
_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


T = TypeVar("T")
Shared: TypeAlias = Annotated[T, Scope.SHARED]
PerInput: TypeAlias = Annotated[tuple[T, ...], Scope.INPUT]
PerParent: TypeAlias = Annotated[tuple[T, ...], Scope.NON_BASE]


def Default(value: Number | None = None, low: float = -math.inf, high: float = math.inf) -> Any:  # noqa: N802
    """Declare the default and the legal interval of a parameter; without a default, recipes must give it."""
    return Parameter("", float, Scope.SHARED, value, low=low, high=high)


def declared_by(function: Callable[..., object]) -> tuple[Parameter, ...]:
    """Return the parameters that a function's signature declares."""
    hints, arguments = get_type_hints(function, include_extras=True), signature(function).parameters
    return tuple(
        _declared(name, get_args(hint), arguments[name].default)
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    )


def _declared(name: str, annotation: tuple[type, Scope], default: object) -> Parameter:
    type_, scope = annotation
    value = type_ if scope is Scope.SHARED else get_args(type_)[0]
    kinds = get_args(value) or (value,)  # of float | None, the first
    given = default if isinstance(default, Parameter) else Default()
    return replace(given, key=name.removesuffix("_"), kind=kinds[0], scope=scope, optional=NoneType in kinds)
