"""Settings: what a recipe may give for a parameter: a value, a gradient over the layers, or filters by tensor name.

Guarantees: a setting has the value that mergekit 0.1.5 resolves for every tensor. Knows no parameters; callers say how
to read the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from merging.errors import suggest

Scalar: TypeAlias = bool | int | float | str
Gradient: TypeAlias = tuple[Scalar, ...]


class Conditional(BaseModel):
    """A value for the tensors whose name contains `filter`; no filter (or ``*``) fits every tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Scalar | Gradient
    filter: str | None = None

    def fits(self, tensor_name: str) -> bool:
        """Whether the tensor's name contains the filter."""
        return self.filter is None or self.filter == "*" or self.filter in tensor_name


Setting: TypeAlias = Scalar | Gradient | tuple[Conditional, ...]


@dataclass(frozen=True, slots=True)
class Knots:
    """The part of a setting that applies to one tensor: a value, or the two knots of a gradient around the tensor.

    Attributes:
        left: the value, or the knot at or before the tensor.
        right: the next knot; None for a plain value.
        fraction: the position between the left knot and the right one, in [0, 1).
    """

    left: Scalar
    right: Scalar | None = None
    fraction: float = 0.0

    def value(self, read: Callable[[Scalar], Scalar]) -> Scalar:
        """Interpolate linearly between the knots; for booleans and words, take the left one.

        Args:
            read: converts a value as written to the parameter's type.
        """
        left = read(self.left)
        if self.right is None or isinstance(left, bool | str):
            return left
        right = read(self.right)
        assert not isinstance(right, str)
        return (1 - self.fraction) * left + self.fraction * right


def knots_at(setting: Setting, tensor_name: str, t: float) -> Knots | None:
    """Return the part of a setting for a tensor, or None if no filter fits. The first fitting filter wins.

    Args:
        setting: the setting.
        tensor_name: the full name of the tensor.
        t: the position of the tensor's layer in its slice, in [0, 1].
    """
    if not isinstance(setting, tuple):
        return Knots(setting)
    gradient = []
    for item in setting:
        if not isinstance(item, Conditional):
            gradient.append(item)
        elif item.fits(tensor_name):
            return knots_at(item.value, tensor_name, t)
    if not gradient:
        return None
    position = t * (len(gradient) - 1)
    left = int(position)
    return Knots(gradient[left], gradient[min(left + 1, len(gradient) - 1)], position - left)


def leaves(setting: Setting) -> Iterator[tuple[str, Scalar]]:
    """Yield every value in a setting, after its place there: ``[1].value[0]``."""
    if not isinstance(setting, tuple):
        yield "", setting
        return
    for index, item in enumerate(setting):
        if isinstance(item, Conditional):
            for suffix, value in leaves(item.value):
                yield f"[{index}].value{suffix}", value
        else:
            yield f"[{index}]", item


def parse_setting(raw: object) -> Setting:
    """Read a setting as YAML gives it. Raises PydanticCustomError ``setting``, with the place in its context."""
    if isinstance(raw, Mapping | Conditional):
        return (_parse_conditional(raw, ""),)
    if isinstance(raw, list | tuple) and any(isinstance(item, Mapping | Conditional) for item in raw):
        return tuple(_parse_conditional(item, f"[{index}]") for index, item in enumerate(raw))
    return _parse_scalar_or_gradient(raw, "")


def _parse_scalar_or_gradient(raw: object, at: str) -> Scalar | Gradient:
    if isinstance(raw, bool | int | float | str):
        return raw
    if isinstance(raw, list | tuple):
        if not raw:
            raise _error(at, "an empty list is not a gradient; give at least one number")
        for index, item in enumerate(raw):
            if not isinstance(item, bool | int | float | str):
                raise _error(f"{at}[{index}]", f"expected a number, got {item!r}")
        return tuple(raw)
    raise _error(at, f"expected a number, a list of numbers (a gradient) or filters, got {raw!r}")


def _parse_conditional(raw: object, at: str) -> Conditional:
    if isinstance(raw, Conditional):
        return raw
    if not isinstance(raw, Mapping):
        raise _error(at, f"expected {{filter, value}}, got {raw!r}")
    for key in raw:
        if key not in ("filter", "value"):
            hint = suggest(str(key), ("filter", "value"))
            raise _error(f"{at}.{key}", f"unknown key (a filter has 'filter' and 'value'){hint}")
    if "value" not in raw:
        raise _error(at, "a filter needs a 'value'")
    name = raw.get("filter")
    if name is not None and not isinstance(name, str):
        raise _error(f"{at}.filter", f"expected a part of a tensor's name, got {name!r}")
    return Conditional(value=_parse_scalar_or_gradient(raw["value"], f"{at}.value"), filter=name)


def _error(at: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{reason}", {"at": at, "reason": reason})
