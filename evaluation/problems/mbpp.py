"""MBPP (arXiv:2108.07732) in three formats: full, sanitized, and MBPP+ as the hub has it.

MBPP's rows have no beginning of a program. As in the BigCode evaluation harness, the prompt is a docstring with the
task and its first test, and the completion is the whole function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from evaluation.problems.fields import Fields
from evaluation.problems.files import JsonObject
from evaluation.problems.problem import PLUS_SECONDS, SECONDS, Problem, parse

_SCHEMA = ("task_id", "text (or prompt)", "code", "test_list")
_SHOWN_IN_PROMPTS, _TEST_SPLIT = {2, 3, 4}, range(11, 511)

# Executed last, at module level: from then on, `check` no longer means a solution of that name.
_CHECKED = "\n\ndef check(candidate):\n    pass\n"


def read_mbpp(row: JsonObject, where: str) -> Problem:
    """Read a row of MBPP, or of MBPP+ if it has a field ``test``. Raises EvaluationError."""
    fields = Fields(row, where, _SCHEMA)
    number = fields.number("task_id")
    task = fields.text("text" if "text" in row else "prompt")
    code, tests = fields.text("code"), fields.texts("test_list")
    if not tests:
        raise fields.error("field 'test_list' is empty")
    entry_point = _entry_point(code, tests, fields)
    is_plus = "test" in row
    setup = [fields.text("test_setup_code")] if row.get("test_setup_code") else []
    imports = fields.texts("test_imports") if row.get("test_imports") else []
    script = [fields.text("test")] if is_plus else [*setup, *imports, *tests]
    return Problem(
        task_id=f"Mbpp/{number:.0f}",
        prompt=f'"""\n{task}\n{tests[0]}\n"""\n',
        entry_point=entry_point,
        canonical_solution=code,
        test=module_test("\n".join(script)),
        style="description",
        timeout_seconds=PLUS_SECONDS if is_plus else SECONDS,
    )


def module_test(script: str) -> str:
    """Turn a script of asserts into a test of HumanEval's schema.

    In the script, the entry point's name means the solution. This also works for a solution called ``check`` (MBPP 56),
    because our ``check`` is defined last.
    """
    return script + _CHECKED


def test_split(rows: Sequence[tuple[str, JsonObject]]) -> Sequence[tuple[str, JsonObject]]:
    """Return the rows of the full or sanitized MBPP that are in its test split (ids 11 to 510); of other files, all.

    The full set also holds the problems that few-shot prompts show.
    """
    numbers = {row.get("task_id") for _, row in rows if row.keys() >= {"code", "test_list"} and "test" not in row}
    if not numbers >= _SHOWN_IN_PROMPTS:
        return rows
    return [(where, row) for where, row in rows if row.get("task_id") in _TEST_SPLIT]


def _entry_point(code: str, tests: Iterable[str], fields: Fields) -> str:
    """Return the function that the code defines and the tests call."""
    try:
        defined = set(_defined(parse(code)))
        called = [name for test in tests for name in _called(parse(test))]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise fields.error(f"field 'code' or 'test_list' is not Python: {error}") from None
    found = next((name for name in called if name in defined), None)
    if found is None:
        raise fields.error("the tests in field 'test_list' do not call a function that field 'code' defines")
    return found


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _called(tree: ast.Module) -> Iterator[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    yield from (node.func.id for node in nodes if isinstance(node.func, ast.Name))
