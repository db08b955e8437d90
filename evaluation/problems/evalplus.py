"""EvalPlus' own files of HumanEval+ and MBPP+: inputs, and a reference that computes the results (arXiv:2305.01210).

A completion passes if it is right on the original inputs and on EvalPlus' additional ones. One time limit covers all
inputs; evalplus gives each input its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from evaluation.problems import differential
from evaluation.problems.fields import Fields
from evaluation.problems.files import JsonObject
from evaluation.problems.mbpp import module_test
from evaluation.problems.mbpp_inputs import restore
from evaluation.problems.problem import PLUS_SECONDS, Problem

_SCHEMA = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol")
# Pasted into every problem's test, so that an edit changes the digest of humaneval+ and mbpp+; a test holds its text.
_SOURCE = Path(differential.__file__).read_text(encoding="utf-8")


def read_evalplus(row: JsonObject, where: str) -> Problem:
    """Read a row of HumanEvalPlus.jsonl or MbppPlus.jsonl. Raises EvaluationError."""
    fields = Fields(row, where, _SCHEMA)
    task_id, prompt, entry_point, solution = (fields.text(name) for name in _SCHEMA[:4])
    is_mbpp = task_id.startswith("Mbpp/")
    return Problem(
        task_id=task_id,
        prompt=prompt,
        entry_point=entry_point,
        canonical_solution=solution,
        test=_test(fields, task_id, prompt + solution, entry_point, is_mbpp),
        style="description" if is_mbpp else "function",
        timeout_seconds=PLUS_SECONDS,
    )


def _test(fields: Fields, task_id: str, program: str, entry_point: str, is_mbpp: bool) -> str:
    inputs = {name: fields.calls(f"{name}_input") for name in ("base", "plus")}
    if is_mbpp:
        try:
            number = int(task_id.removeprefix("Mbpp/"))
            inputs = {name: list(map(list, restore(number, calls))) for name, calls in inputs.items()}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise fields.error(f"the inputs are not those of {task_id} in MBPP+: {error}") from None
    literals = (f"{name} = {_literal(calls)}" for name, calls in inputs.items())
    # The module gets its own namespace, so that none of its names is taken for the solution.
    module = "\n".join([_SOURCE, *literals])
    call = f"{entry_point}, {program!r}, {entry_point!r}, {is_mbpp}"
    rest = f"_tests['base'], _tests['plus'], {fields.number('atol')!r}"
    return module_test(f"_tests = {{}}\nexec({module!r}, _tests)\n_tests['compare']({call}, {rest})")


def _literal(calls: list[list[object]]) -> str:
    """Return inputs as an expression: JSON if it can express them, since that is read ten times faster."""
    try:
        text = json.dumps(calls)
    except TypeError:  # a set, a complex number
        return repr(calls)
    return f"json.loads({text!r})" if json.loads(text) == calls else repr(calls)  # tuples come back as lists
