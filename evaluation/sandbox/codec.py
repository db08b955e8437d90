"""Plain data between the two sides: tagged JSON that decodes to exact builtin types and nothing else.

Guarantees: decoding runs no code of the sender's; what has no plain form arrives as `Opaque`, which equals nothing, and an
iterator as `Iterated`, which can be iterated and equals nothing. Bounded in depth and size.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 60
MAX_ITEMS = 100_000
_EXACT_INT = 1 << 53


class Unsendable(Exception):
    """A value that is too deep or too large."""


class Opaque:
    """What a value without a plain form arrives as; equal to nothing, itself included."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.kind} object>"


class Iterated:
    """What an iterator arrives as: its items, to be iterated once or more; equal to nothing but itself."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def encode(value: Any, depth: int = 0) -> Any:
    """Return the JSON form of a value. Raises Unsendable beyond MAX_DEPTH or MAX_ITEMS."""
    if depth > MAX_DEPTH:
        raise Unsendable("the value is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__add__(value, 0)
        return number if -_EXACT_INT < number < _EXACT_INT else {"int": hex(number)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, str):
        return str.__getitem__(value, slice(None))
    return _encode_container(value, depth)


def _encode_container(value: Any, depth: int) -> Any:
    def items(values: Any) -> list[Any]:
        taken = list(itertools.islice(iter(values), MAX_ITEMS + 1))
        if len(taken) > MAX_ITEMS:
            raise Unsendable("the value has too many items")
        return [encode(item, depth + 1) for item in taken]

    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: items(kind.__iter__(value))}
    if isinstance(value, dict):
        return {"dict": [items(pair) for pair in dict.items(value)]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, Decimal | Fraction):
        return {"Decimal" if isinstance(value, Decimal) else "Fraction": str(value)}
    if isinstance(value, range):
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if hasattr(type(value), "__next__") or type(value) in _VIEWS:
        return {"iterated": items(value)}
    return {"opaque": str(type(value).__name__)[:80]}


_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


def decode(data: Any) -> Any:
    """Return the value of a JSON form. Raises ValueError, TypeError or KeyError for what `encode` never made."""
    if data is None or isinstance(data, bool | int | str):
        return data
    ((tag, content),) = data.items()
    return _DECODERS[tag](content)


def _decode_items(content: Any) -> Iterator[Any]:
    return (decode(item) for item in content)


_DECODERS: dict[str, Any] = {
    "int": lambda content: int(content, 16),
    "float": float.fromhex,
    "list": lambda content: list(_decode_items(content)),
    "tuple": lambda content: tuple(_decode_items(content)),
    "set": lambda content: set(_decode_items(content)),
    "frozenset": lambda content: frozenset(_decode_items(content)),
    "dict": lambda content: dict(map(_decode_items, content)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda content: complex(*map(float.fromhex, content)),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "range": lambda content: range(*_decode_items(content)),
    "iterated": lambda content: Iterated(list(_decode_items(content))),
    "opaque": lambda content: Opaque(str(content)),
}


def send(connection: socket.socket, message: Any, limit: int = MAX_BYTES) -> None:
    """Send one JSON message. Raises Unsendable if it is larger than `limit` bytes."""
    data = json.dumps(message).encode("ascii")
    if len(data) > limit:
        raise Unsendable(f"the value takes {len(data)} bytes, more than {limit}")
    connection.sendall(struct.pack("!I", len(data)) + data)


def receive(connection: socket.socket, limit: int = MAX_BYTES) -> Any:
    """Receive one JSON message. Raises EOFError at the end, ValueError for what is no message."""
    (length,) = struct.unpack("!I", _exactly(connection, 4))
    if length > limit:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
