"""Completions that define or return what a harness may stumble over: they must not pass."""

from __future__ import annotations

from tests.evaluation.hostile.writing import body, module

DEFINITIONS = {
    "another signature": module("def add(a): return a"),
    "no function": module("del add"),
    "a function of that name that is none": module("add = 3"),
    "endless recursion": body("return add(a, b)"),
    "input": body("return input()"),
    "an unclosed string": '    """',
    "a NUL": "    return a + b\x00\n",
    "a lone surrogate": "    return '\ud800'\n",
    "a lone surrogate outside of a string": "    return a \ud800 b\n",
    "a byte order mark": "    \ufeffreturn None\n",
    "a coding line": module("# -*- coding: rot13 -*-"),
    "5,000 parentheses": "    return " + "(" * 5000 + ")" * 5000 + "\n",
    "200,000 minus signs": "    return " + "-" * 200_000 + "1\n",
    "20,000 nested lists": "    return " + "[" * 20_000 + "]" * 20_000 + "\n",
    "100,000 sums": "    return " + "+".join(["a"] * 100_000) + "\n",
}

RETURNS = {
    "64 MB": body("return 'x' * (64 << 20)"),
    "a list without end": body("loop = []\nloop.append(loop)\nreturn loop"),
    "a dictionary that holds itself": body("loop = {}\nloop[0] = loop\nreturn loop"),
    "a million levels": body("found = []\nfor _ in range(1_000_000): found = [found]\nreturn found"),
    "an iterator without end": body("import itertools\nreturn itertools.repeat(3)"),
    "a str that grows when it is asked": body(
        "class Grows(str):\n    def __str__(self): return 'x' * (1 << 30)\nreturn Grows('x')"
    ),
    "an int of a million digits": body("return 10 ** 1_000_000"),
    "a function that adds": body("return lambda: a + b"),
}
