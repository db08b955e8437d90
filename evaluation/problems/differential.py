"""EvalPlus' tests (arXiv:2305.01210): compare a solution's results with the reference's, input by input.

This file is executed in the tests' process, as part of every problem's test. It needs the standard library, and numpy
if results are close but not equal. Results are equal where evalplus 0.3.1 says so, with one difference: the reference,
the solution and the special rules each get the original arguments, whatever the others did to theirs.
"""

from __future__ import annotations

import json  # noqa: F401 - code executed after this reads the inputs with it, and may use inf and nan
import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from math import inf, nan  # noqa: F401
from typing import Any

Rule = Callable[[Any, Any, Sequence[Any], float], bool]

_FLOAT_TOLERANCE = 1e-6
_RELATIVE_TOLERANCE = 1e-7


def compare(
    solution: Callable[..., object],
    program: str,
    entry_point: str,
    is_mbpp: bool,
    base: Sequence[Sequence[object]],
    plus: Sequence[Sequence[object]],
    atol: float,
) -> None:
    """Raise AssertionError if a solution's results are not the reference's, or whatever the solution raises.

    Args:
        solution: the function under test.
        program: the reference, which defines the function of that name.
        entry_point: the function's name.
        is_mbpp: whether the special rules of MBPP+ hold, or those of HumanEval+.
        base: the original inputs; each is a sequence of arguments.
        plus: EvalPlus' additional inputs.
        atol: absolute tolerance of results.
    """
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    reference: Callable[..., object] = namespace[entry_point]
    rule: Rule = (_OF_MBPP if is_mbpp else _OF_HUMANEVAL).get(entry_point, _is_equal)
    for kind, inputs in (("base", base), ("plus", plus)):
        tolerance = atol
        for index, arguments in enumerate(inputs):
            expected = reference(*deepcopy(arguments))
            found = solution(*deepcopy(arguments))
            accepted = rule(found, expected, arguments, tolerance)
            if rule is not _is_root:
                # As in evalplus, the tolerance for floats stays for later inputs.
                tolerance = _FLOAT_TOLERANCE if tolerance == 0 and _is_floats(expected) else tolerance
                accepted = accepted or (tolerance != 0 and _is_close(found, expected, tolerance))
            if not accepted:
                raise AssertionError(f"{kind} input {index}: not the reference's result")


def _is_close(found: Any, expected: Any, tolerance: float) -> bool:
    import numpy

    if type(found) is not type(expected):
        return False
    if isinstance(expected, list | tuple) and len(found) != len(expected):
        return False
    return bool(numpy.allclose(found, expected, rtol=_RELATIVE_TOLERANCE, atol=tolerance))


def _is_floats(value: object) -> bool:
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


# A rule takes the result, the expected one, the arguments and the tolerance, and says whether the result is right.


def _is_equal(found: object, expected: object, _: object, __: float) -> bool:
    return bool(found == expected)


def _is_root(found: float, _: object, arguments: Sequence[Sequence[float]], tolerance: float) -> bool:
    """HumanEval/32: any root of the polynomial of these coefficients."""
    value = sum(part * math.pow(found, power) for power, part in enumerate(arguments[0]))
    return bool(abs(value) <= tolerance)


def _is_anything(_: object, __: object, ___: object, ____: float) -> bool:
    """Mbpp/164: its tests contradict its task."""
    return True


def _is_equal_or_zero(found: object, expected: object, _: object, __: float) -> bool:
    """Mbpp/295."""
    return bool(found == expected or found == 0)


def _is_surface(found: float, expected: object, arguments: Sequence[float], tolerance: float) -> bool:
    """Mbpp/581: the height may be the slant height, as the reference has it, or the pyramid's own."""
    base_edge, height = arguments
    slant = math.sqrt((base_edge / 2) ** 2 + height**2)
    return bool(found == expected) or abs(found - round(base_edge**2 + 2 * base_edge * slant)) <= tolerance


def _is_digit_distance(found: object, expected: object, arguments: Sequence[object], _: float) -> bool:
    """Mbpp/558: the shorter number may be padded with zeros, which the reference does not do."""
    first, second = map(str, arguments)
    width = max(len(first), len(second))
    pairs = zip(first.zfill(width), second.zfill(width), strict=True)
    return bool(found == expected or found == sum(abs(int(a) - int(b)) for a, b in pairs))


def _is_equal_as_set(found: Iterable[object], expected: Iterable[object], _: object, __: float) -> bool:
    return set(found) == set(expected)


def _is_as_present(found: object, expected: object, _: object, __: float) -> bool:
    """A match counts as a yes."""
    present = expected is not None
    return bool(found == present) if isinstance(found, bool) else present == (found is not None)


_OF_HUMANEVAL: dict[str, Rule] = {"find_zero": _is_root}
_OF_MBPP: dict[str, Rule] = {
    "are_equivalent": _is_anything,
    "sum_div": _is_equal_or_zero,
    "surface_Area": _is_surface,
    "digit_distance_nums": _is_digit_distance,
    "similar_elements": _is_equal_as_set,
    "find_char_long": _is_equal_as_set,
    "common_in_nested_lists": _is_equal_as_set,
    "extract_singly": _is_equal_as_set,
    "larg_nnum": _is_equal_as_set,
    "intersection_array": _is_equal_as_set,
    "find_dissimilar": _is_equal_as_set,
    "Diff": _is_equal_as_set,
    "check_str": _is_as_present,
    "text_match_three": _is_as_present,
    "text_starta_endb": _is_as_present,
}
