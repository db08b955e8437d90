"""The exit codes that `merge-search --help` documents.

Those after signals are tested in test_startup.py and test_workers.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search import Leaderboard
from tests.search.conftest import Command
from tests.search.family import Family

ROOT = Path(__file__).parents[2]


def test_the_help_and_the_page_document_the_same_exit_codes(command: Command) -> None:
    told = re.findall(r"^ +(\d+) {2,}", command("--help").output.partition("Exit codes:")[2], re.MULTILINE)
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    assert told == re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "130"]


def test_what_is_done_ends_with_0_and_what_is_to_be_put_right_with_2(command: Command, finished: Path) -> None:
    assert command("leaderboard", finished).exit_code == 0
    assert command("leaderboard", finished / "nowhere").exit_code == 2
    assert command("leaderboard", finished, "--json", "--csv").exit_code == 2  # click's own errors, too
    assert command("leader", finished).exit_code == 2


def test_a_bug_ends_with_1_and_its_traceback(command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Leaderboard:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Leaderboard, "open", fail)
    done = command("leaderboard", finished)
    assert (done.exit_code, str(done.exception)) == (1, "a bug")


def test_a_dry_run_that_could_not_run_here_ends_with_1(
    command: Command, shared_family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.generation.backends.find_spec", lambda _: None)
    config = shared_family.write("vllm.yaml", evaluation=", backend: vllm")
    assert command("run", config, "--dry-run").exit_code == 1
