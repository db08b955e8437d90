"""Settings: what may stand for a number in a recipe, which is a value, a gradient over the layers, or filters by name.

Guarantees: a setting has the value that mergekit 0.1.5 resolves for every tensor. Knows no parameter; whoever resolves
a setting says how its values are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


def resolve(setting: Setting, tensor_name: str, t: float, read: Callable[[Scalar], Scalar]) -> Scalar | None:
    """Return the one value that a setting has for a tensor, or None where no filter fits.

    The first fitting filter wins. A gradient is interpolated linearly at `t` in [0, 1]; of booleans and words the last
    one at or before `t` is picked.

    Args:
        setting: the setting.
        tensor_name: the full name of the tensor.
        t: the position of the tensor's layer in its slice.
        read: converts a value as written to the parameter's type.
    """
    if not isinstance(setting, tuple):
        return read(setting)
    knots = []
    for item in setting:
        if not isinstance(item, Conditional):
            knots.append(read(item))
        elif item.fits(tensor_name):
            return resolve(item.value, tensor_name, t, read)
    return _interpolate(knots, t) if knots else None


def _interpolate(knots: Sequence[Scalar], t: float) -> Scalar:
    position = t * (len(knots) - 1)
    left = int(position)
    numbers = [knot for knot in knots if isinstance(knot, int | float) and not isinstance(knot, bool)]
    if len(numbers) != len(knots):
        return knots[left]
    fraction = position - left
    return (1 - fraction) * numbers[left] + fraction * numbers[min(left + 1, len(knots) - 1)]


def leaves(setting: Setting) -> Iterator[tuple[str, Scalar]]:
    """Yield every value in a setting, with where it stands there: ``[1].value[0]``."""
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
            raise _error(at, "an empty list is no gradient; give at least one number")
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
