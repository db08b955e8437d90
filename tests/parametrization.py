"""Parametrizations of which the default suite runs a part, and the slow tests the rest."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def every(count: int, values: Iterable[object]) -> list[ParameterSet]:
    """Return values for a parametrization: the first and each `count`th after it, and as slow ones the others."""
    found = []
    for place, value in enumerate(values):
        marks = [pytest.mark.slow] if place % count else []
        found.append(pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks))
    return found
