from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from search.cli import main
from search.cli.given_values import GivenPath, GivenText
from tests.search.conftest import Command


def _taking() -> list[tuple[str, click.Parameter]]:
    """Return each argument and option of a command that takes a value."""
    return [
        (name, parameter)
        for name, found in main.commands.items()
        for parameter in found.params
        if isinstance(parameter, click.Argument) or (isinstance(parameter, click.Option) and not parameter.is_flag)
    ]


@pytest.mark.parametrize(("name", "parameter"), _taking(), ids=str)
def test_an_empty_value_is_refused_by_the_name_of_what_was_given(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parameter: click.Parameter
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {each: "x" for each in main.commands[name].params if each.required} | {parameter: ""}
    words = [word for each, value in given.items() for word in (*each.opts[:1] * isinstance(each, click.Option), value)]
    result = command(name, *words)
    called = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
    if isinstance(parameter.type, GivenPath | GivenText):
        assert result.exit_code == 2
        assert re.fullmatch(rf"merge-search: {re.escape(called)}: is empty; give .+\n", result.stderr)
    else:  # a number, or one of several words
        assert result.exit_code == 2
        assert f"Invalid value for '{called}" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
