"""The end of a prompt: which text makes it a complete program."""

from __future__ import annotations

import io
import warnings


def prompt_ending(prompt: str) -> str | None:
    """Return the text that makes a prompt compile: "", or a body for the function at its end.

    Return None if the prompt ends within a statement.
    """
    last = next((line for line in reversed(list(io.StringIO(prompt, newline=""))) if line.strip()), "")
    indentation = last[: len(last) - len(last.lstrip())]
    bodies = ("", f"\n{indentation}pass\n", f"\n{indentation}    pass\n")
    return next((body for body in bodies if _compiles(prompt + body)), None)


def _compiles(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a stray backslash in a docstring
            compile(program, "<prompt>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
