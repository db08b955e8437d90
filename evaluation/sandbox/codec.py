"""Plain data between the two sides: tagged JSON that decodes to exact builtin types and nothing else.

Guarantees: decoding runs no code of the sender's; a subclass arrives as the builtin type that it extends; an iterator
arrives as `Iterated`, which can be iterated and equals nothing; what has no plain form arrives as `Opaque`, which
equals nothing, itself included. Encoding is bounded in depth and in size.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction

MAX_DEPTH = 60
MAX_ITEMS = 200_000
# JSON numbers beyond this are sent as hex: Python refuses to parse long decimal ones.
_EXACT_INT = 1 << 53


class CodecError(Exception):
    """A value that cannot be sent, or a message that `encode` never made."""


class Unsendable(CodecError):
    """A value without a plain form, where one is needed.

    Attributes:
        came_back: it is an `Opaque`, so the other side made it.
    """

    def __init__(self, kind: str, came_back: bool) -> None:
        super().__init__(f"a value of type {kind} cannot cross to the other process")
        self.came_back = came_back


class Opaque:
    """What a value without a plain form arrives as; equal to nothing, itself included."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self.kind} object>"


class Iterated:
    """What an iterator arrives as: its items, to be iterated once or more; equal to nothing but itself."""

    def __init__(self, items: list[object]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[object]:
        return iter(self._items)


def dumps(value: object, plain_only: bool = False) -> str:
    """Return the message of a value. Raises CodecError beyond MAX_DEPTH or MAX_ITEMS.

    With `plain_only`, a value that would arrive as `Opaque` raises Unsendable.
    """
    return json.dumps(encode(value, plain_only))


def encode(value: object, plain_only: bool = False) -> object:
    """Return the JSON form of a value; see `dumps`."""
    return _Encoder(plain_only).encode(value, 0)


class _Encoder:
    def __init__(self, plain_only: bool) -> None:
        self._plain_only = plain_only
        self._items_left = MAX_ITEMS

    def encode(self, value: object, depth: int) -> object:
        # type() and not isinstance(), which believes what an object says of its class.
        kind = type(value)
        if value is None or value is True or value is False:
            return value
        if issubclass(kind, int):
            number = int.__pos__(value)  # type: ignore[arg-type]
            return number if -_EXACT_INT < number < _EXACT_INT else ["i", hex(number)]
        if issubclass(kind, float):
            return float.__pos__(value)  # type: ignore[arg-type]
        if issubclass(kind, str):
            return str.__str__(value)
        if depth >= MAX_DEPTH:
            raise CodecError("the value is nested too deeply")
        return self._container(value, kind, depth + 1)

    def _container(self, value: object, kind: type, depth: int) -> object:
        for tag, builtin in (("l", list), ("t", tuple), ("s", set), ("f", frozenset)):
            if issubclass(kind, builtin):
                return [tag, *self._items(builtin.__iter__(value), depth)]  # type: ignore[arg-type]
        if issubclass(kind, dict):
            return ["d", *self._items(dict.items(value), depth)]  # type: ignore[arg-type]
        if issubclass(kind, bytes | bytearray):
            return ["y" if issubclass(kind, bytes) else "a", memoryview(value).hex()]  # type: ignore[arg-type]
        if issubclass(kind, complex):
            number = complex.__pos__(value)  # type: ignore[arg-type]
            return ["c", number.real, number.imag]
        if kind is Decimal:
            return ["D", str(value)]
        if kind is Fraction:
            return ["F", str(value)]
        if kind is range:
            return ["r", *(self.encode(part, depth) for part in (value.start, value.stop, value.step))]  # type: ignore[attr-defined]
        if kind in _VIEWS or kind is Iterated or hasattr(kind, "__next__"):
            return ["g", *self._items(value, depth)]  # type: ignore[arg-type]
        if self._plain_only:
            raise Unsendable(value.kind if type(value) is Opaque else kind.__name__, kind is Opaque)
        return ["?", kind.__name__[:80]]

    def _items(self, values: Iterable[object], depth: int) -> list[object]:
        taken = list(itertools.islice(values, self._items_left + 1))
        self._items_left -= len(taken)
        if self._items_left < 0:
            raise CodecError("the value has too many items")
        return [self.encode(item, depth) for item in taken]


_EMPTY: dict[object, object] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))


def decode(data: object) -> object:
    """Return the value of a JSON form. Raises CodecError for what `encode` never made."""
    try:
        return _decode(data)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        raise CodecError("a message is not of this protocol") from None


def _decode(data: object) -> object:
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise TypeError
        return data
    return _DECODERS[data[0]](data[1:])


def _values(content: list[object]) -> Iterator[object]:
    return map(_decode, content)


_DECODERS: dict[object, Callable[[list[object]], object]] = {
    "i": lambda content: int(_text(content), 16),
    "l": lambda content: list(_values(content)),
    "t": lambda content: tuple(_values(content)),
    "s": lambda content: set(_values(content)),
    "f": lambda content: frozenset(_values(content)),
    "d": lambda content: dict(_values(content)),  # type: ignore[arg-type]
    "y": lambda content: bytes.fromhex(_text(content)),
    "a": lambda content: bytearray.fromhex(_text(content)),
    "c": lambda content: complex(*content),  # type: ignore[call-overload]
    "D": lambda content: Decimal(_text(content)),
    "F": lambda content: Fraction(_text(content)),
    "r": lambda content: range(*_values(content)),  # type: ignore[call-overload]
    "g": lambda content: Iterated(list(_values(content))),
    "?": lambda content: Opaque(_text(content)),
}


def _text(content: list[object]) -> str:
    (text,) = content
    if not isinstance(text, str):
        raise TypeError
    return text
