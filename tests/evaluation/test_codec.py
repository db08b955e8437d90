"""What crosses between the two processes arrives as an exact builtin type, or as something that equals nothing."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.sandbox.codec import MAX_DEPTH, CodecError, Iterated, Opaque, Unsendable, decode, dumps

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


@settings(deadline=None, max_examples=60)
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
    given = [AlwaysEqual(5), Named("own"), point(1, 2), colour.red, OrderedDict(a=1), Counter("aab")]
    arrived = there(given)
    assert [type(value) for value in arrived] == [int, str, tuple, int, dict, dict]
    assert arrived == [5, "own", (1, 2), 1, {"a": 1}, {"a": 2, "b": 1}]


def test_what_lies_about_its_class_is_opaque() -> None:
    class Liar:
        __class__ = int  # type: ignore[assignment]

    assert isinstance(there(Liar()), Opaque)


@pytest.mark.parametrize("value", [object(), len, lambda: 1, int, pytest])
def test_other_values_arrive_as_something_equal_to_nothing(value: object) -> None:
    arrived = there(value)
    assert isinstance(arrived, Opaque)
    assert arrived != arrived
    assert arrived not in ([value], [None], [arrived.kind])
    with pytest.raises(Unsendable) as caught:
        dumps([value], plain_only=True)
    assert not caught.value.came_back
    with pytest.raises(Unsendable) as caught:
        dumps([arrived], plain_only=True)
    assert caught.value.came_back


@pytest.mark.parametrize(
    "make", [lambda: (i for i in range(3)), lambda: map(int, "012"), lambda: {0: 0, 1: 1, 2: 2}.keys()]
)
def test_iterators_arrive_as_what_can_be_iterated_and_equals_no_list(make: Any) -> None:
    arrived = there(make())
    assert isinstance(arrived, Iterated)
    assert tuple(arrived) == tuple(arrived) == (0, 1, 2)
    assert arrived != [0, 1, 2]


def test_values_without_end_are_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    wide: list[object] = [1]
    for _ in range(40):
        wide = [wide, wide]

    def forever() -> Any:
        while True:
            yield 1

    for value in (loop, wide, forever()):
        with pytest.raises(CodecError):
            dumps(value)
    nested: object = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert there(nested) == nested


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["i", "d", "s", "D", "F", "r", "?", "0x", "1/0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(json_values)
def test_any_message_is_a_plain_value_or_refused(message: object) -> None:
    try:
        value = decode(message)
    except CodecError:
        return
    builtins = (int, float, str, bool, type(None), list, tuple, set, frozenset, dict, bytes, bytearray, complex)
    assert type(value) in (*builtins, Decimal, Fraction, range, Opaque, Iterated)
