"""Plain data between the two sides: tagged JSON that decodes to builtin types, and to references to anything else.

Guarantees: decoding runs none of the sender's code. Every value arrives as exactly a builtin or collections type: an
instance of a subclass as the type that it extends, a numpy scalar as its `item`. For a value without a plain form (an
iterator, a function, any other object), each side passes `encode` and `decode` a function that handles it. Encoding is
bounded in depth and in size.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn, cast

MAX_DEPTH = 200  # each level takes four Python frames, and the interpreter allows a thousand
MAX_ITEMS = 5_000_000
_MANY = 16  # from this many items on, it is worth checking whether they need no encoding
# JSON numbers beyond this are sent as hex: Python refuses to parse long decimal ones.
_EXACT_INT = 1 << 53

Other = Callable[[object], object]  # returns the JSON form of a value that has no plain one
Held = Callable[[list[object]], object]  # returns the value of a form that the other side's `Other` made with HELD

HELD = "h"
ITERATOR = "g"


class CodecError(Exception):
    """A value that cannot be sent, or a message that `encode` never made."""


def refuse(value: object) -> NoReturn:
    """Refuse a value: the `Other` of a side that sends only plain values."""
    raise CodecError(f"a value of type {type(value).__name__} cannot cross to the other process")


def _no_such_thing(_: list[object]) -> NoReturn:
    """Refuse a message: the `Held` of a side that keeps nothing."""
    raise CodecError("a message is not of this protocol")


def dumps(value: object, other: Other = refuse, exact: bool = False) -> str:
    """Return the message of a value; see `encode`."""
    return json.dumps(encode(value, other, exact))


def encode(value: object, other: Other = refuse, exact: bool = False) -> object:
    """Return the JSON form of a value.

    Args:
        value: the value to send.
        other: returns the form of every value in it that has no plain one.
        exact: also call `other` for instances of subclasses, which are otherwise sent as the type that they extend.

    Raises:
        CodecError: the value exceeds MAX_DEPTH or MAX_ITEMS.
    """
    try:
        return _Encoder(other, exact).encode(value, 0)
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None


class _Encoder:
    def __init__(self, other: Other, exact: bool) -> None:
        self._other = other
        self._exact = exact
        self._items_left = MAX_ITEMS

    def encode(self, value: object, depth: int) -> object:
        # type(), because isinstance() believes what an object claims about its class.
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind not in _FORMS:
            if (plain := _plain_scalar(value)) is not value:
                return self.encode(plain, depth)
            known = None if self._exact else next((base for base in _EXTENDED if issubclass(kind, base)), None)
            if known is None:
                return self._other(value)
            kind = known
        if depth > MAX_DEPTH:
            raise CodecError("the value is nested too deeply")
        return _FORMS[kind](self, value, depth + 1)

    def items(self, tag: str, values: Iterable[object], depth: int) -> list[object]:
        """Return the form of a collection."""
        taken = list(itertools.islice(values, self._items_left + 1))
        self._items_left -= len(taken)
        if self._items_left < 0:
            raise CodecError("the value has too many items")
        if len(taken) < _MANY or not _are_json(taken):
            taken = [self.encode(item, depth) for item in taken]
        return [tag, *taken]


def _are_json(items: list[object]) -> bool:
    """Whether items are their own JSON forms; checked without a Python loop."""
    kinds = set(map(type, items))
    if kinds == {int}:
        numbers = cast("list[int]", items)
        return min(numbers) > -_EXACT_INT and max(numbers) < _EXACT_INT
    return kinds <= {str, float, bool, type(None)}


def _plain_scalar(value: object) -> object:
    """Return the builtin value of a numpy scalar; any other value as it is."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return value
    plain = value.item()
    return value if isinstance(plain, numpy.generic) else plain  # a long double has none


def _integer(value: int) -> object:
    number = int.__pos__(value)
    return number if -_EXACT_INT < number < _EXACT_INT else ["i", hex(number)]


# By type; called with the encoder, the value and its depth. They call methods of the type itself, because a subclass
# may override them.
_FORMS: dict[type, Callable[[_Encoder, Any, int], object]] = {
    int: lambda _, value, __: _integer(value),
    list: lambda encoder, value, depth: encoder.items("l", list.__iter__(value), depth),
    tuple: lambda encoder, value, depth: encoder.items("t", tuple.__iter__(value), depth),
    dict: lambda encoder, value, depth: encoder.items("d", dict.items(value), depth),
    set: lambda encoder, value, depth: encoder.items("s", set.__iter__(value), depth),
    frozenset: lambda encoder, value, depth: encoder.items("f", frozenset.__iter__(value), depth),
    deque: lambda encoder, value, depth: encoder.items("q", deque.__iter__(value), depth),
    str: lambda _, value, __: str.__str__(value),
    float: lambda _, value, __: float.__pos__(value),
    complex: lambda _, value, __: ["c", complex.__pos__(value).real, complex.__pos__(value).imag],
    bytes: lambda _, value, __: ["y", memoryview(value).hex()],
    bytearray: lambda _, value, __: ["a", memoryview(value).hex()],
}
_EXTENDED = tuple(_FORMS)
_FORMS |= {
    Counter: lambda encoder, value, depth: encoder.items("C", dict.items(value), depth),
    OrderedDict: lambda encoder, value, depth: encoder.items("O", value.items(), depth),
    Decimal: lambda _, value, __: ["D", str(value)],
    Fraction: lambda _, value, __: ["F", str(value)],
    range: lambda encoder, value, depth: encoder.items("r", (value.start, value.stop, value.step), depth),
}
_EMPTY: tuple[dict[object, object], ...] = ({}, OrderedDict())
for _dict in _EMPTY:
    _FORMS[type(_dict.keys())] = lambda encoder, value, depth: encoder.items("k", value, depth)
    _FORMS[type(_dict.values())] = lambda encoder, value, depth: encoder.items("v", value, depth)
    _FORMS[type(_dict.items())] = lambda encoder, value, depth: encoder.items("m", value, depth)


def decode(data: object, held: Held = _no_such_thing) -> object:
    """Return the value of a JSON form; `held` returns the values of its HELD parts.

    Raises CodecError for a form that `encode` never makes.
    """
    try:
        return _decoded(data, held)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        raise CodecError("a message is not of this protocol") from None


def _decoded(data: object, held: Held) -> object:
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise TypeError
        return data
    tag, content = data[0], data[1:]
    if tag == HELD:
        return held(content)
    if tag in _PLAIN:
        return _PLAIN[tag](content)
    if not {list, dict}.isdisjoint(map(type, content)):
        content = [_decoded(item, held) for item in content]
    return _COLLECTIONS[tag](content)


def _text(content: list[object]) -> str:
    (text,) = content
    if not isinstance(text, str):
        raise TypeError
    return text


_PLAIN: dict[object, Callable[[list[object]], object]] = {
    "i": lambda content: int(_text(content), 16),
    "y": lambda content: bytes.fromhex(_text(content)),
    "a": lambda content: bytearray.fromhex(_text(content)),
    "c": lambda content: complex(*content),  # type: ignore[call-overload]
    "D": lambda content: Decimal(_text(content)),
    "F": lambda content: Fraction(_text(content)),
}
_COLLECTIONS: dict[object, Callable[[Any], object]] = {
    "l": lambda items: items,
    "t": tuple,
    "s": set,
    "f": frozenset,
    "q": deque,
    "d": dict,
    "C": lambda items: Counter(dict(items)),
    "O": OrderedDict,
    "k": lambda items: dict.fromkeys(items).keys(),
    "v": lambda items: dict(enumerate(items)).values(),
    "m": lambda items: dict(items).items(),
    "r": lambda items: range(*items),
    ITERATOR: iter,
}
