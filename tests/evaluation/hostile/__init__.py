"""Completions that a model might write to be scored as right without being so, or to reach beyond the sandbox.

All are of one problem, to add two values.
"""

from __future__ import annotations

from tests.evaluation.hostile import bombs, cheats, escapes, values
from tests.evaluation.hostile.case import Case

PROMPT = 'def add(a, b):\n    """Return the sum of a and b."""\n'
TEST = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate('a', 'b') == 'ab'
    assert True
"""
# Tests of numbers are often of this kind.
NEARLY = """
def check(candidate):
    assert abs(candidate(20, 22) - 42) < 1e-6
"""
HONEST = "    return a + b\n"

_CHEATS = {
    "leaves by": cheats.EXITS,
    "forges": cheats.FORGERIES,
    "returns as an equal": cheats.EQUALS,
    "patches": cheats.PATCHES,
    "observes with": cheats.TRACERS,
    "looks up": cheats.ANSWERS,
    "writes": values.DEFINITIONS,
    "returns": values.RETURNS,
    "hangs in": bombs.HANGS,
}

CASES = {
    f"{verb} {name}": Case(completion, bombs.NOT_A_PASS, TEST)
    for verb, group in _CHEATS.items()
    for name, completion in group.items()
}
CASES |= {f"is near with {name}": Case(code, bombs.NOT_A_PASS, NEARLY) for name, code in cheats.NEAR.items()}
CASES |= {f"explodes in {name}": Case(code, ends, TEST) for name, (code, ends) in bombs.BOMBS.items()}
CASES |= {f"escapes by {name}": Case(escapes.completion(it), ("passed",), TEST) for name, it in escapes.ESCAPES.items()}
