"""HumanEval's schema: HumanEval itself, HumanEval+ as the hub has it, and your own files."""

from __future__ import annotations

from evaluation.problems.fields import Fields
from evaluation.problems.files import JsonObject
from evaluation.problems.problem import PLUS_SECONDS, SECONDS, Problem

SCHEMA = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def read_humaneval(row: JsonObject, where: str) -> Problem:
    """Read a row of HumanEval's schema (arXiv:2107.03374); further fields are ignored. Raises EvaluationError."""
    fields = Fields(row, where, SCHEMA)
    task_id, prompt, entry_point, solution, test = (fields.text(name) for name in SCHEMA)
    # The hub's evalplus/humanevalplus has the same fields, but only its tests begin like this.
    seconds = PLUS_SECONDS if test.lstrip().startswith("import numpy") else SECONDS
    return Problem(task_id, prompt, entry_point, solution, test, timeout_seconds=seconds)
