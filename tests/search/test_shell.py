"""Commands that messages tell may be copied as they are, whatever a folder is called."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from search import SearchError
from search.errors import start_over
from search.recipes import load_recipe
from search.results import ResultsFolder
from search.shell import shell_command
from tests.search.conftest import Command
from tests.search.family import Family

NAMES = ["plain", "with blanks", "it's $HOME; `x`", "größer > less", "-dash"]


def told(message: str) -> list[str]:
    """Return the words of the command that a message tells, as a shell reads them."""
    found = re.search(r"`(merge-search .*)` |^  (merge-search .*)$", message, re.MULTILINE)
    assert found, message
    return shlex.split(found[1] or found[2])


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a relative path with such a name, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Path(request.param)


def test_a_folder_is_one_word_of_a_command(place: Path) -> None:
    called = f"./{place}" if place.name == "-dash" else str(place)
    assert told(f"run {start_over(place)} ") == ["merge-search", "run", "CONFIG", "--out", called, "--fresh"]
    with pytest.raises(SearchError) as caught:
        ResultsFolder.open(place)
    assert told(str(caught.value)) == ["merge-search", "run", "CONFIG", "--out", called]


def test_a_command_that_is_told_takes_the_file_that_it_names(
    place: Path, command: Command, shared_family: Family
) -> None:
    place.mkdir()
    config = place / "search.yaml"
    config.write_text(shared_family.config(), encoding="utf-8")
    with pytest.raises(SearchError, match="is the config of a search") as caught:
        load_recipe(config)
    assert Path(told(str(caught.value))[-1]).samefile(config)
    empty = told(command(*shell_words("list", place)).stdout)
    assert Path(empty[-1]).parent.samefile(place)
    after_init = told(command(*shell_words("init", place)).stdout)
    assert Path(after_init[-1]).samefile(place / "quickstart.yaml")


def shell_words(*words: str | Path) -> list[str]:
    return shlex.split(shell_command(*words))[1:]
