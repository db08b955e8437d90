"""A shell completes results folders, trials and trackers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from search import Leaderboard
from search.cli import main


def completed(*words: str) -> dict[str, str]:
    """Return what fish is told for the last word, with the help; click's script for it is the simplest."""
    told = {"_MERGE_SEARCH_COMPLETE": "fish_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": words[-1]}
    done = CliRunner().invoke(main, prog_name="merge-search", env=told)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found = (line.partition(",")[2].partition("\t") for line in done.output.splitlines() if line)
    return {value: help_ for value, _, help_ in found}


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which a search is, where a person is."""
    for name in ("first run", "second"):
        (tmp_path / "results" / name).mkdir(parents=True)
        shutil.copy(finished / "search.db", tmp_path / "results" / name)
    (tmp_path / "results" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_folders_are_found_from_their_parent_and_from_beside_it(place: Path) -> None:
    both = {"results/first run": "", "results/second": ""}
    assert completed("merge-search", "leaderboard", "") == both
    assert completed("merge-search", "export", "results/") == both
    assert completed("merge-search", "confirm", "results/s") == {"results/second": ""}
    assert completed("merge-search", "leaderboard", f"{place}/results/sec") == {f"{place}/results/second": ""}


def test_the_trials_and_parents_of_the_folder_on_the_line_are_offered_with_their_scores(place: Path) -> None:  # noqa: ARG001
    found = completed("merge-search", "export", "results/second", "--trial", "")
    board = Leaderboard.open("results/second")
    assert set(found) == {"0", "1", "2", "a", "b", "base", "average"}
    assert found[str(board.best)] == f"{board.best_row.record.search.score:.1%}"  # type: ignore[union-attr]
    assert set(completed("merge-search", "export", "results/second", "--to", "out", "--trial", "a")) == {"a", "average"}
    assert completed("merge-search", "export", "results/notes", "--trial", "a") == {}
    assert completed("merge-search", "export", "--trial", "a") == {}


def test_trackers_and_commands_are_offered() -> None:
    assert set(completed("merge-search", "run", "search.yaml", "--track", "")) == {"mlflow", "wandb"}
    assert "leaderboard" in completed("merge-search", "lead")
