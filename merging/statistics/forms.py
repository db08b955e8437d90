"""Forms: how a statistic is stored on disk as named tensors, and how it is restored.

A method gives a form to a statistic that costs more to compute than hashing the parents, whose digests identify it.
Guarantees: what is restored has the bits of what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Named: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a statistic is written and read.

    Attributes:
        version: the version of the code that computes it; raise it when the code changes the value for some parents.
        tensors: returns the tensors, on any device, that a value is made of.
        value: makes the value from its tensors again.
        is_placed: whether the tensors may lie where there is room for them, such as on the host; readers bring what
            they read to the device.
        is_written: whether it is worth its space on disk.
    """

    version: int
    tensors: Callable[[T], Named]
    value: Callable[[Named], T]
    is_placed: bool = False
    is_written: bool = True


def plain(version: int) -> Form[T]:
    """Return the form of a number, a boolean, or a tuple of these, perhaps nested."""
    return Form(version, lambda value: {"json": _bytes(json.dumps(value))}, lambda named: _plain(named["json"]))


def tensor(version: int, is_written: bool = True) -> Form[Tensor]:
    """Return the form of a tensor."""
    return Form(version, lambda value: {"tensor": value}, lambda named: named["tensor"], True, is_written)


def optional_tensor(version: int) -> Form[Tensor | None]:
    """Return the form of a tensor or of None."""
    one = tensor(version)
    return Form(
        version,
        lambda value: {} if value is None else one.tensors(value),
        lambda named: one.value(named) if named else None,
        is_placed=True,
    )


def tensors(version: int) -> Form[Any]:
    """Return the form of a tuple of tensors."""
    return Form(
        version,
        lambda values: {str(index): value for index, value in enumerate(values)},
        lambda named: tuple(named[str(index)] for index in range(len(named))),
        is_placed=True,
    )


def named(version: int) -> Form[dict[str, Tensor]]:
    """Return the form of tensors that have names."""
    return Form(version, lambda value: value, lambda named: dict(named), is_placed=True)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _plain(text: Tensor) -> Any:
    return _as_tuples(json.loads(bytes(text.numpy())))


def _as_tuples(value: object) -> object:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
