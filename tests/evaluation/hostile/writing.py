"""How hostile completions of the adding problem are written."""

from __future__ import annotations

import textwrap


def body(code: str) -> str:
    """Return the code as a function's body."""
    return textwrap.indent(textwrap.dedent(code).strip("\n"), "    ") + "\n"


def module(code: str, returned: object = None) -> str:
    """Return a body that returns a constant, and the code at module level after it."""
    return f"    return {returned}\n\n" + textwrap.dedent(code).strip("\n") + "\n"
