"""The types of the methods' parameters, without the methods: importing them brings torch, which takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_METHODS = Path(__file__).parents[1] / "methods"


@cache
def parameter_types() -> Mapping[str, str]:
    """Return the type of each parameter that some method declares (`bool`, `int`, `float`, `str`), by its key in YAML.

    Read off the declarations, `Parameter("k", int, ...)`, in the methods' source.
    """
    nodes = (node for file in sorted(_METHODS.rglob("*.py")) for node in ast.walk(ast.parse(file.read_bytes())))
    calls = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Parameter")
    return {ast.literal_eval(key): ast.unparse(kind) for key, kind, *_ in (call.args for call in calls)}
