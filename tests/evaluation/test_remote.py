"""What the tests get from the solution's process behaves as it would within one process."""

from __future__ import annotations

import textwrap

import pytest

from evaluation import Problem, SandboxPool, Verdict
from tests.evaluation.oracle import human_eval_results

DEEP = "value = 1\nfor _ in range(100): value = [value]\n"

# A check's body and the body of a right f(x).
RIGHT = {
    "a long argument": ("assert candidate(list(range(300_000))) == 300_000", "return len(x)"),
    "a deep argument": (DEEP + "assert candidate(value) == value", "return x"),
    "a long result": (
        "assert len(candidate(2_000_000)) == 148_933",
        "known = bytearray(x + 1)\n"
        "for i in range(2, int(x**0.5) + 1):\n"
        "    if not known[i]: known[i * i :: i] = b'1' * len(known[i * i :: i])\n"
        "return [i for i in range(2, x + 1) if not known[i]]",
    ),
    "a generator": ("assert tuple(candidate(3)) == (0, 1, 2)", "yield from range(x)"),
    "a generator, taken step by step": (
        "found = candidate(3)\n"
        "assert [next(found), next(found)] == [0, 1]\n"
        "assert [list(found), list(found)] == [[2], []]",
        "yield from range(x)",
    ),
    "a generator without end": (
        "import itertools\nassert list(itertools.islice(candidate(5), 3000))[-1] == 3004",
        "while True:\n    yield x\n    x += 1",
    ),
    "a generator that fails late": (
        "found = candidate(1)\n"
        "assert next(found) == 1\n"
        "try: next(found)\n"
        "except ZeroDivisionError: assert list(found) == []\n"
        "else: raise AssertionError",
        "yield x\nyield x / 0",
    ),
    "a generator, handed back": (
        "found = candidate(range(9))\n"
        "assert [next(found) for _ in range(4)] == [0, 1, 2, 3]\n"
        "assert list(candidate(found)) == [4, 5, 6, 7, 8]",
        "return iter(x)",
    ),
    "a generator as argument": ("assert candidate(i for i in range(5)) == 10", "return sum(x)"),
    "a closure": (
        "assert candidate(3)(4) == 7 and candidate(candidate(3)) == 3",
        "return x(0) if callable(x) else lambda y: x + y",
    ),
    "a class": ("assert candidate(3)('12') == 12", "return int"),
    "an object, handed back": (
        "found = candidate(5)\nassert candidate(found) == 5 and candidate([found]) == [5]",
        "class Box: pass\n"
        "if isinstance(x, int):\n"
        "    Box.value = x\n"
        "    return Box()\n"
        "return [b.value for b in x] if isinstance(x, list) else x.value",
    ),
    "a view": ("assert candidate({1: 2}) == {1}", "return x.keys()"),
    "a counter": (
        "from collections import Counter\nassert candidate(Counter('aab')).most_common(1) == [('a', 2)]",
        "return x + x.__class__()",
    ),
    "an error that wants more than a text": (
        "try: candidate(b'\\xff')\n"
        "except UnicodeDecodeError as error: assert error.start == 0 and error.object == b'\\xff'\n"
        "else: raise AssertionError",
        "return x.decode('utf-8')",
    ),
    "an error of one's own that extends such a one": (
        "try: candidate('x')\nexcept UnicodeError as error: assert 'x' in str(error)\nelse: raise AssertionError",
        "class Own(UnicodeDecodeError):\n"
        "    def __init__(self, text): self.args = (text,)\n"
        "    def __str__(self): return self.args[0]\n"
        "raise Own(x)",
    ),
    "a group of errors": (
        "try: candidate(1)\nexcept Exception as error: assert 'all of them' in str(error)\nelse: raise AssertionError",
        "raise ExceptionGroup('all of them', [ValueError(x)])",
    ),
    "a scalar of numpy's": (
        "assert candidate([1, 2]) == 1.5 and abs(candidate([2, 2]) - 2) < 1e-6",
        "import numpy as np\nreturn np.mean(x)",
    ),
    "whole numbers and truths of numpy's": (
        "assert candidate([3, 4]) == [12, True, (7, 'a')]",
        "import numpy as np\nreturn [np.prod(x), np.all(x), (np.sum(x), np.str_('a'))]",
    ),
    "tests that use numpy": (
        "import numpy as np\nassert np.allclose(candidate(np.float64(2)), 4) and candidate(np.int64(2)) == 4",
        "return x * 2",
    ),
    "a keyword that is changed": ("values = [2, 1]\ncandidate(x=values)\nassert values == [1, 2]", "x.sort()"),
}


def problem(check: str) -> Problem:
    """Return a problem whose check has this body."""
    test = "def check(candidate):\n" + textwrap.indent(check, "    ") + "\n"
    return Problem("toy/f", "def f(x):\n", "f", "", test)


@pytest.mark.slow
def test_the_programs_below_are_right() -> None:
    programs = [(problem(check), textwrap.indent(body, "    ") + "\n") for check, body in RIGHT.values()]
    assert human_eval_results(programs, timeout=20) == ["passed"] * len(programs)


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_program_passes(sandbox: SandboxPool, case: str) -> None:
    check, body = RIGHT[case]
    assert sandbox.run(problem(check), textwrap.indent(body, "    ") + "\n") == Verdict("passed")


@pytest.mark.parametrize(
    "body", ["return iter([1, 2])", "return lambda: 0", "return object()", "return {1: 2}.values()"]
)
def test_what_is_no_data_equals_no_data(sandbox: SandboxPool, body: str) -> None:
    check = (
        "found = candidate(0)\nassert found == [1, 2] or found == 0 or found == {1: 2} or found is None or not found"
    )
    assert sandbox.run(problem(check), f"    {body}\n") == Verdict("failed", "AssertionError")


WRONG = {
    "an endless list": "loop = []\nloop.append(loop)\nreturn loop",
    "an endless iterator of nothing": """
class Endless:
    def __iter__(self): return self
    def __next__(self): return None
return Endless()
""",
    "an iterator of what is too large": "return iter(['x' * (80 << 20)])",
    "what says that it is an int": "class Liar: __class__ = int\nreturn Liar()",
    "an error that cannot be told": """
class Bad(Exception):
    def __str__(self): raise self
raise Bad(object())
""",
    "half a message": """
import os
for descriptor in range(3, 64):
    try: os.write(descriptor, b'\\0\\0\\0\\2[]')
    except OSError: pass
""",
    "an error that is none": """
import os
for descriptor in range(3, 64):
    text = b'[false, ["t", "print", ["t", "all is well"]], null]'
    try: os.write(descriptor, len(text).to_bytes(4, "big") + text)
    except OSError: pass
""",
    "a long double": "import numpy\nreturn numpy.longdouble(1)",
    "a handle to nothing": """
import os
for descriptor in range(3, 64):
    try: os.write(descriptor, b'\\0\\0\\0\\x24[true, ["h", 99, "iterator", ""], null]')
    except OSError: pass
""",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_program_fails_and_breaks_nothing(sandbox: SandboxPool, case: str) -> None:
    body = textwrap.indent(WRONG[case].strip(), "    ") + "\n"
    assert sandbox.run(problem("assert list(zip(candidate(1), range(2))) == [(1, 0)]"), body).status == "failed"
    assert sandbox.run(problem("assert candidate(1) == 1"), "    return x\n").passed


UNSCORABLE = {
    "a function": "candidate(lambda v: v)",
    "an object": "class Point: pass\ncandidate([Point()])",
    "a tuple with names": "from collections import namedtuple\ncandidate(namedtuple('Point', 'x')(1))",
    "too deep a list": DEEP.replace("100", "300") + "candidate(value)",
    "too much": "candidate('x' * (80 << 20))",
}


@pytest.mark.parametrize("case", UNSCORABLE)
def test_what_the_tests_cannot_hand_over_is_not_the_programs_failure(sandbox: SandboxPool, case: str) -> None:
    check = problem(f"try:\n{textwrap.indent(UNSCORABLE[case], '    ')}\nexcept BaseException: pass")
    assert sandbox.run(check, "no program").status == "failed"
    verdict = sandbox.run(check, "    return x\n")
    assert verdict.status == "unscorable"
    assert verdict.detail.startswith("the tests' arguments: ")


@pytest.mark.parametrize("test", ["def check(candidate:\n", "import nowhere\ndef check(c): pass\n", "pass\n"])
def test_a_broken_test_is_not_the_programs_failure(adder: Problem, sandbox: SandboxPool, test: str) -> None:
    broken = Problem("toy/broken", adder.prompt, "add", "", test)
    assert sandbox.run(broken, adder.canonical_solution).status == "unscorable"
