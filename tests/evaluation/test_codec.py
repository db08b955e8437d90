"""What crosses between the two processes arrives as it was, or as the builtin that it extends, or not at all."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.sandbox.codec import MAX_DEPTH, MAX_ITEMS, CodecError, decode, dumps, encode

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.fractions()
)  # fmt: skip
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=20,
)


def there(value: object) -> Any:
    """Send a value across."""
    return decode(json.loads(dumps(value)))


def types(value: Any) -> Any:
    """Return the types of a value and of what is in it."""
    if isinstance(value, dict):
        return {types(key): types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), *(types(item) for item in value)
    return type(value)


@given(values)
def test_plain_values_arrive_as_they_were(value: object) -> None:
    assert there(value) == value
    assert types(there(value)) == types(value)


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, -0.0, 2**70, -(1 << 20_000), "\ud800", "\x00é", range(2, 9, 3)],
    ids=lambda v: str(type(v)),
)
def test_awkward_values_arrive_as_they_were(value: Any) -> None:
    assert there(value) == value
    assert math.copysign(1, there(-0.0)) == -1
    assert math.isnan(there(math.nan))


class AlwaysEqual(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Named(str):
    def __str__(self) -> str:
        return "another"


def test_subclasses_arrive_as_the_builtin_that_they_extend() -> None:
    point = namedtuple("point", "x y")
    colour = IntEnum("colour", "red")
    given = [AlwaysEqual(5), Named("own"), point(1, 2), colour.red, defaultdict(list, a=1)]
    arrived = there(given)
    assert [type(value) for value in arrived] == [int, str, tuple, int, dict]
    assert arrived == [5, "own", (1, 2), 1, {"a": 1}]
    for value in given:
        with pytest.raises(CodecError, match=type(value).__name__):
            dumps([value], exact=True)


def test_the_usual_collections_arrive_as_they_were() -> None:
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    given = [Counter("aab"), ordered, deque([1, 2]), {1: 2}.keys(), {1: 2}.items()]
    assert there(given) == given
    assert [type(value) for value in there(given)] == [type(value) for value in given]
    assert list(there(ordered)) == ["b", "a"]
    assert list(there({1: 2}.values())) == [2]
    assert json.loads(dumps(given, exact=True)) == json.loads(dumps(given))


class Liar:
    __class__ = int  # type: ignore[assignment]


@pytest.mark.parametrize(
    "value",
    [Liar(), object(), len, lambda: 1, int, pytest, iter([])],
    ids=["liar", "object", "builtin", "function", "type", "module", "iterator"],
)
def test_what_has_no_plain_form_is_for_its_side_to_decide(value: object) -> None:
    asked: list[object] = []

    def other(value: object) -> object:
        asked.append(value)
        return ["h", len(asked)]

    assert decode(encode([value, [value]], other), held=tuple) == [(1,), [(2,)]]
    assert asked == [value, value]
    with pytest.raises(CodecError, match=f"type {type(value).__name__} "):
        dumps([value])
    with pytest.raises(CodecError):
        decode(["h", 1])


@given(st.lists(st.integers(-(2**60), 2**60) | st.floats() | st.booleans(), min_size=16, max_size=40))
def test_long_lists_arrive_as_they_were(numbers: list[object]) -> None:
    for part in (numbers, [n for n in numbers if type(n) is int], [n for n in numbers if type(n) is float]):
        assert list(map(repr, there(part))) == list(map(repr, part))


def test_values_without_end_are_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    wide = [[None] * (MAX_ITEMS // 10)] * 11
    for value in (loop, wide):
        with pytest.raises(CodecError):
            dumps(value)
    nested: object = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert there(nested) == nested
    with pytest.raises(CodecError, match="deeply"):
        dumps([nested])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["i", "d", "s", "D", "F", "r", "h", "g", "C", "m", "0x", "1/0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(json_values)
def test_any_message_is_a_plain_value_or_refused(message: object) -> None:
    try:
        value = decode(message)
    except CodecError:
        return
    builtins = (int, float, str, bool, type(None), list, tuple, set, frozenset, dict, bytes, bytearray, complex)
    views = (type({}.keys()), type({}.values()), type({}.items()), type(iter([])))
    assert type(value) in (*builtins, Decimal, Fraction, range, Counter, OrderedDict, deque, *views)
