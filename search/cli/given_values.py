"""The values that the user gives to a command: texts and paths that must not be empty.

An empty value usually comes from an unset shell variable, and `Path` would take it for the current folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from search.errors import SearchError


class GivenPath(click.Path):
    """A path that is not empty.

    Args:
        what: what to give, in words.
    """

    def __init__(self, what: str) -> None:
        super().__init__(path_type=Path)
        self._what = what

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path. Raises SearchError if it is empty."""
        _require(value, param, self._what)
        return super().convert(value, param, ctx)


class GivenText(click.types.StringParamType):
    """A text that is not empty.

    Args:
        what: what to give, in words.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises SearchError if it is empty."""
        _require(value, param, self._what)
        return super().convert(value, param, ctx)


def _require(value: object, param: click.Parameter | None, what: str) -> None:
    if value == "" and param:
        name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
        raise SearchError(f"{name}: is empty; give {what}")
