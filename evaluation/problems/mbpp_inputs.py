"""The inputs of MBPP+ that JSON cannot express (tuples, sets, complex numbers), as in evalplus 0.3.1.

A problem may have a shape, which converts its arguments; without one they stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Arguments = Sequence[Any]
Shape = Callable[[Arguments], Arguments]


def restore(number: int, inputs: Sequence[Arguments]) -> list[Arguments]:
    """Return the inputs of an MBPP+ problem as its function takes them."""
    shape = _SHAPES.get(number)
    return [shape(arguments) if shape else arguments for arguments in inputs]


def _all_tuples(arguments: Arguments) -> Arguments:
    return [tuple(each) for each in arguments]


def _lists_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(item) for item in each] for each in arguments]


def _tuples_of_tuples(arguments: Arguments) -> Arguments:
    return [tuple(map(tuple, each)) for each in arguments]


def _first_list_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(item) for item in arguments[0]], arguments[1]]


def _first_tuple(arguments: Arguments) -> Arguments:
    return [tuple(arguments[0]), *arguments[1:]]


def _second_tuple(arguments: Arguments) -> Arguments:
    return [arguments[0], tuple(arguments[1])]


def _list_of_sets(arguments: Arguments) -> Arguments:
    # As in evalplus, an empty list becomes a dictionary.
    return [[set(item) if isinstance(item, list) and item else {} for item in arguments[0]]]


def _tuple_of_lists_as_tuples(arguments: Arguments) -> Arguments:
    return [tuple(tuple(item) if isinstance(item, list) else item for item in arguments[0])]


def _dictionary_of_tuples(arguments: Arguments) -> Arguments:
    return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]


def _tuples_at_any_depth(value: Any) -> Any:
    return tuple(map(_tuples_at_any_depth, value)) if isinstance(value, list) else value


_NUMBERS: dict[Shape, Sequence[int]] = {
    _all_tuples: (
        *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424),
        *(429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    _lists_of_tuples: (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    _tuples_of_tuples: (259, 401, 445),
    _first_list_of_tuples: (75, 413, 444, 753),
    _first_tuple: (250, 307, 405, 446, 617, 720, 763, 808),
    _second_tuple: (106, 750),
    _list_of_sets: (115,),
    _tuple_of_lists_as_tuples: (278,),
    _dictionary_of_tuples: (722,),
    _tuples_at_any_depth: (580, 615, 791),
    lambda arguments: (float(arguments[0]), complex(arguments[1])): (124,),
    lambda arguments: [complex(arguments[0])]: (252,),
}
_SHAPES = {number: shape for shape, numbers in _NUMBERS.items() for number in numbers}
