"""The types of the methods' parameters, without the methods: importing them brings torch, which takes seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_DECLARED = r"(?:Shared|PerInput|PerParent)\[(\w+).*\]"
_METHODS = Path(__file__).parents[1] / "methods"


@cache
def parameter_types() -> Mapping[str, str]:
    """Return the type (`bool`, `int`, `float`, `str`) of each parameter that a method declares, by its key in YAML.

    Reads the declarations, `k: Shared[int]`, in the methods' source.
    """
    nodes = (node for file in sorted(_METHODS.rglob("*.py")) for node in ast.walk(ast.parse(file.read_bytes())))
    arguments = ((node.arg, node.annotation) for node in nodes if isinstance(node, ast.arg) and node.annotation)
    declared = ((name, re.fullmatch(_DECLARED, ast.unparse(annotation))) for name, annotation in arguments)
    return {name.removesuffix("_"): found[1] for name, found in declared if found}
