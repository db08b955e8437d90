"""How a prompt ends: what must follow it, for it to be a program of its own."""

from __future__ import annotations

import ast
import warnings


def closing(prompt: str) -> str | None:
    """Return what makes a prompt compile when it follows it: nothing, or a body for the function that it ends in.

    None if it ends within a statement.
    """
    last = next((line for line in reversed(prompt.splitlines()) if line.strip()), "")
    indentation = last[: len(last) - len(last.lstrip())]
    bodies = ("", f"\n{indentation}pass\n", f"\n{indentation}    pass\n")
    return next((body for body in bodies if _compiles(prompt + body)), None)


def body_indentation(program: str, name: str) -> str:
    """Return how far the body of the function that a program ends in is indented; nothing if it ends in none."""
    try:
        last = ast.parse(program).body[-1]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return ""
    if not isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef) or last.name != name:
        return ""
    first = last.body[0]
    before = program.splitlines()[first.lineno - 1][: first.col_offset]
    return "" if before.strip() else before


def _compiles(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stray backslash in a docstring
            compile(program, "<prompt>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
