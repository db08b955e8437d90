"""Right solutions, wrapped as chat models wrap them: the program that is tested still holds them."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import Problem, SandboxPool
from evaluation.answers.code import code_of
from evaluation.prompts import extract

PROMPT = 'import math\n\n\ndef f(x):\n    """Return three times x."""\n'
GOOD = "def f(x):\n    y = 3 * x\n    return y"
WRONG = "def f(x):\n    y = 4 * x\n    return y"
FENCED = f"```python\n{GOOD}\n```"
BODY = "    y = 3 * x\n    return y"


def value_of(answer: str, prompt: str = PROMPT, argument: object = 2) -> Any:
    """Return what the function gives that an answer to a prompt makes."""
    problem = Problem("t", prompt, "f", "", "def check(c): pass")
    names: dict[str, Any] = {}
    exec(compile(prompt + extract(problem, "chat", answer), "<program>", "exec"), names)
    return names["f"](argument)


def fenced(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def indented(text: str, by: str = "   ") -> str:
    return textwrap.indent(text, by)


LOOKS_UP = ("", "def f(x):", "    return T[x]")
ANSWERS = {
    # reasoning
    "reasoning": f"<think>\nMaybe:\n{fenced(WRONG)}\nNo.\n</think>\n\n{FENCED}",
    "reasoning that the template began": f"Maybe:\n{fenced(WRONG)}\nNo.\n</think>\n{FENCED}",
    "reasoning twice": f"<think>{WRONG}</think>\n{FENCED}\n<think>\n{WRONG}\n</think>",
    "reasoning without an end": f"{FENCED}\n<think>\nLet me check:\n{WRONG}\nand",
    "an answer that speaks of reasoning": fenced(
        "def f(x):", '    """Remove all before </think>, as in "</think>"."""', '    tag = "</think>"',
        '    return 3 * x if tag != "<think>.*?</think>" else x',
    ),
    "reasoning alone": f"<think>\nIt must be\n{FENCED}",
    "reasoning of other models": f"[THINK]{WRONG}[/THINK]\n{FENCED}",
    "a thought of other models": f"<|begin_of_thought|>\n{WRONG}\n<|end_of_thought|>\n{FENCED}",
    "reasoning in capitals": f"<Thinking>\n{WRONG}\n</Thinking>\n{FENCED}",
    # fences
    "a fence in a list": f"1. First:\n\n{indented(FENCED)}\n\n2. Then call it.",
    "a fence behind a bullet": f"- ```python\n{indented(GOOD, '  ')}\n  ```\n- Done.",
    "a fence in a list after a sketch": f"```python\ndef f(x):\n    ...\n```\n1. So:\n{indented(FENCED)}",
    "code indented in its fence": f"```python\n{indented(GOOD, '    ')}\n```",
    "a fence of tildes": f"~~~python\n{GOOD}\n~~~\nDone.",
    "an indented fence of tildes": f"* Code:\n{indented(f'~~~{chr(10)}{GOOD}{chr(10)}~~~')}",
    "a fence without a language": f"```\n{GOOD}\n```",
    "a fence of four": f"````python\n{GOOD}\n````",
    "a fence with more": f'```python title="f.py"\n{GOOD}\n```',
    "a fence on the code's last line": f"```python\n{GOOD}```\nDone.",
    "a fence on the code's first line": f"```python {GOOD}\n```",
    "a fence that is not closed": f"```python\n{GOOD}",
    "no fence": f"Here it is:\n\n{GOOD}\n\nIt triples.",
    "Windows lines": FENCED.replace("\n", "\r\n"),
    # white space
    "non-breaking spaces": FENCED.replace("    ", "\u00a0\u00a0\u00a0\u00a0").replace(" = ", "\u00a0=\u202f"),
    "ideographic spaces": FENCED.replace("    ", "\u3000\u3000"),
    "zero-width characters": f"\ufeff{FENCED}".replace("def ", "\u200bdef ").replace("return", "return\u2060"),
    "line separators": f"```python\n{GOOD}\n```".replace("x):\n", "x):\u2028"),
    # marks
    "the end of a turn as text": f"{GOOD}<|im_end|>\n<|im_start|>user\nThanks!",
    "the end of a text as text": f"{FENCED}</s>",
    "tags": f"<answer>\n{FENCED}\n</answer>",
    "tags beside the code": f"<answer>{GOOD}</answer>",
    # which definition
    "a draft first": fenced(WRONG, "", GOOD),
    "a draft in a fence of its own": f"First try:\n{fenced(WRONG)}\nThat is wrong. Rather:\n{FENCED}",
    "a longer draft first": f"{fenced(WRONG.replace('4 * x', '4 * (x)'), *['# more'] * 9)}\nBetter:\n{FENCED}",
    "a sketch first": f"{fenced('def f(x):', '    # triple it', '    ...')}\n{FENCED}",
    "a sketch that raises": f"{fenced('def f(x):', '    raise NotImplementedError()')}\n{FENCED}",
    "a sketch afterwards": f"{FENCED}\nIts form:\n{fenced('def f(x):', '    pass')}",
    "a draft cut off": f"{FENCED}\nOr:\n```python\ndef f(x):\n    if x:\n        return 1\n    for y in (",
    "an import of it": f"{FENCED}\nUse it:\n{fenced('from solution import f', 'print(f(2))')}",
    "another name": fenced("def triple(x):", "    return 3 * x", "", "f = triple"),
    "a function that is wrapped": fenced("from functools import lru_cache", GOOD, "f = lru_cache(None)(f)"),
    "a decorated function": fenced(
        "def thrice(g):", "    return lambda x: 3 * g(x)", "", "@thrice", "def f(x):", "    return x"
    ),
    "a function in its own text": fenced(
        "def f(x):", '    """', "def f(x):", "    return 0", '    """', "    return 3 * x"
    ),
    "an anonymous function": fenced("f = lambda x: 3 * x"),
    # what it needs
    "imports that are tried": fenced(
        "try:", "    from nowhere import three", "except ImportError:", "    three = 3", "",
        "def f(x):", "    return three * x",
    ),
    "a function that is tried": fenced(
        "try:", "    from nowhere import triple", "except ImportError:", "    def triple(x):", "        return 3 * x",
        "def f(x):", "    return triple(x)",
    ),
    "an import that depends": fenced(
        "import sys", "if sys.version_info >= (3,):", "    from math import prod",
        "def f(x):", "    return prod([3, x])",
    ),
    "a table from a loop": fenced("T = {}", "for i in range(9):", "    T[i] = 3 * i", *LOOKS_UP),
    "a list that is appended to": fenced("T = []", "for i in range(9):", "    T.append(3 * i)", *LOOKS_UP),
    "a table by items": fenced("T = [0] * 3", "T[2] = 6", *LOOKS_UP),
    "a table that is updated": fenced("T = dict()", "T.update({2: 5})", "T[2] += 1", *LOOKS_UP),
    "a number that grows": fenced("N = 1", "N += 1", "N += 1", "def f(x):", "    return N * x"),
    "a while loop": fenced("N = 0", "while N < 3:", "    N += 1", "def f(x):", "    return N * x"),
    "a sieve that is called": fenced(
        "T = [0] * 9", "def fill():", "    for i in range(9):", "        T[i] = 3 * i", "fill()", *LOOKS_UP
    ),
    "an attribute of it": fenced("def f(x):", "    return f.n * x", "", "f.n = 3"),
    "a recursion limit": fenced(
        "import sys", "sys.setrecursionlimit(5000)", "def f(x):", "    return 3 * g(x, 2000)", "",
        "def g(x, n):", "    return g(x, n - 1) if n else x",
    ),
    "helpers in a fence of their own": (
        f"{fenced('def g(x):', '    return 3 * x')}\nand\n{fenced('def f(x):', '    return g(x)')}"
    ),
    "an import in a fence of its own": (
        f"{fenced('import operator')}\nand\n{fenced('def f(x):', '    return operator.mul(3, x)')}"
    ),
    "a class": fenced("class T:", "    n = 3", "def f(x):", "    return T.n * x"),
    # what it does not need
    "examples": fenced(GOOD, "", "print(f(1))", "assert f(1) == 4", "x = f(int(input()))"),
    "a variable that is read": fenced("x = int(input())", GOOD, "print(f(x))"),
    "a script": fenced(GOOD, "", 'if __name__ == "__main__":', "    f(input())"),
    "a script that is called": fenced(GOOD, "", "def main():", "    print(f(int(input())))", "", "main()"),
    "a loop of examples": fenced(GOOD, "", "for y in map(int, input()):", "    print(f(y))"),
    "tests": fenced("import sys", GOOD, "def test():", "    assert f(1) == 7", "test()", "sys.exit(3)"),
    "an example of that name": fenced(GOOD, "f = f(3)"),
    "tests that need what is not there": f"{FENCED}\nTests:\n{fenced('import nowhere', 'def test():', '    f(1)')}",
    # cut off
    "an example cut off": f"```python\n{GOOD}\n\nprint(f(",
    "a text cut off": f'```python\n{GOOD}\n\nprint("Resul',
    "a long text cut off": f'```python\n{GOOD}\n\nprint("""Resul\n',
    "a script cut off": f'```python\n{GOOD}\n\nif __name__ == "__main__":\n    for i in ra',
    "a trial cut off": f"```python\n{GOOD}\n\ntry:\n    print(f(1))\n",
    "another function cut off": f"```python\n{GOOD}\n\ndef g(x):\n    return [",
    # only bodies
    "a body in a fence": f"```python\n{BODY}\n```",
    "a body in a fence at the margin": f"```python\n{textwrap.dedent(BODY)}\n```\nIt triples.",
    "a body from where the prompt ends": f"```python\n{BODY.lstrip()}\n```",
    "a body without a fence": BODY,
    "a body without a fence, explained": f"{BODY}\n\nThis triples x.",
    "a body with imports": "```python\nimport operator\nreturn operator.mul(3, x)\n```",
    "a body and examples": f"```python\n{BODY}\n\nprint(f(2))\n```",
    "a body in a list": f"1. Write\n{indented(f'```{chr(10)}{BODY}{chr(10)}```')}",
    "a body after reasoning": f"<think>def f(x): hm</think>\n```python\n{BODY}\n```",
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_right_answer_is_right_however_it_is_wrapped(kind: str) -> None:
    assert value_of(ANSWERS[kind]) == 6


@pytest.mark.parametrize("indentation", ["  ", "\t", "        "])
def test_a_body_alone_is_indented_as_the_prompt_is(indentation: str) -> None:
    prompt = f'def f(x):\n{indentation}"""Return three times x."""\n'
    assert value_of(f"```python\n{BODY}\n```", prompt) == 6
    assert value_of(f"```python\n{BODY}\n```", "def f(\n    x,\n):\n") == 6


def test_a_body_of_many_lines_keeps_its_texts() -> None:
    assert value_of('```python\ntext = """a\n  b"""\nreturn text\n```') == "a\n  b"
    assert value_of("```python\nif x:\n        return 6\n    return 7\n```") == 6


@pytest.mark.parametrize("text", ["\u00a0", "a\u200bb", "\ufeff", "</think>", "# \u2028", "```\n"])
def test_what_a_string_holds_is_left_as_it_is(text: str) -> None:
    assert value_of(fenced("def f(x):", f"    return {text!a} + '''{text}'''")) == text * 2


def test_the_sandbox_says_the_same(adder: Problem, sandbox: SandboxPool) -> None:
    problem = replace(adder, prompt=PROMPT, entry_point="f", test="def check(c):\n    assert c(2) == 6")
    kinds = [
        "reasoning",
        "a fence in a list",
        "imports that are tried",
        "a body in a fence",
        "a script",
        "a table from a loop",
    ]
    verdicts = dict(sandbox.check([(problem, extract(problem, "chat", ANSWERS[kind])) for kind in kinds]))
    assert all(verdict.passed for verdict in verdicts.values())


# --- any function in any wrapping -----------------------------------------------------------------------------------

_NAMES = st.sampled_from(["x", "y", "total", "items", "T"])
_OPERATORS = st.sampled_from(["+", "*", "if 1 else", "in"])
_EXPRESSIONS = st.recursive(
    st.one_of(st.integers(0, 99).map(str), _NAMES, st.text(max_size=8).map(ascii)),
    lambda inner: st.builds("({} {} {})".format, inner, _OPERATORS, inner),
    max_leaves=5,
)
_HEADS = st.sampled_from(["if x", "for y in x", "while not x"])
_STATEMENTS = st.recursive(
    st.builds("{} = {}".format, _NAMES, _EXPRESSIONS),
    lambda inner: st.builds(lambda head, body: f"{head}:\n{indented(body, '    ')}", _HEADS, inner),
    max_leaves=3,
)
_FUNCTIONS = st.builds(
    lambda lines, value: "def f(x):\n" + indented("\n".join([*lines, f"return {value}"]), "    "),
    st.lists(_STATEMENTS, max_size=3),
    _EXPRESSIONS,
)
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "fence": lambda code: f"Sure!\n```python\n{code}\n```\nDone.",
    "list": lambda code: f"1. So:\n\n{indented(f'```python{chr(10)}{code}{chr(10)}```')}\n2. Done.",
    "tildes": lambda code: f"~~~\n{code}\n~~~",
    "reasoning": lambda code: f"<think>\ndef f(x):\n    return None\n</think>\n{code}\n",
    "spaces": lambda code: f"```python\n{code.replace('    ', chr(160) * 4)}\n```",
    "draft": lambda code: f"```python\ndef f(x):\n    return 0\n```\nNo:\n```python\n{code}\n```",
    "examples": lambda code: f"```python\n{code}\n\nprint(f(input()))\nif __name__ == '__main__':\n    f(1)\n```",
    "cut off": lambda code: f"```python\n{code}\n\nprint(f(",
    "lines": lambda code: f"```python\n{code}\n```".replace("\n", "\r\n"),
}


@given(function=_FUNCTIONS, wrapping=st.sampled_from(sorted(WRAPPINGS)))
def test_a_function_is_the_same_in_any_wrapping(function: str, wrapping: str) -> None:
    found = ast.parse(code_of(WRAPPINGS[wrapping](function), "f"))
    assert ast.dump(found.body[-1]) == ast.dump(ast.parse(function).body[0])
    assert len(found.body) == 1


@given(body=st.lists(_STATEMENTS, max_size=3), value=_EXPRESSIONS, indentation=st.sampled_from(["  ", "    ", "\t"]))
def test_a_body_is_the_same_in_a_fence(body: list[str], value: str, indentation: str) -> None:
    written = "\n".join([*body, f"return {value}"])
    problem = Problem("t", f'def f(x):\n{indentation}"""Do it."""\n', "f", "", "")
    program = ast.parse(problem.prompt + extract(problem, "chat", f"```python\n{written}\n```"))
    expected = ast.parse("def f(x):\n" + indented(f'"""Do it."""\n{written}', "    "))
    assert ast.dump(program) == ast.dump(expected)
