"""A problem that the sandbox cannot score is wrong input: found, and named, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.search.conftest import Command
from tests.search.family import Family


@pytest.mark.sandbox
def test_a_problem_that_cannot_be_scored_ends_a_search_before_it_begins(
    family: Family, command: Command, tmp_path: Path
) -> None:
    # One of the report split would otherwise show when all trials are over.
    lines = [json.loads(line) for line in family.problems.read_text().splitlines()]
    for line in lines[:2]:
        line["test"] = "def check(candidate):\n    candidate(lambda: 0)\n"
    family.problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    result = command("run", family.write(), "--out", out)
    assert result.exit_code == 2
    assert f"2 of {len(lines)} problems cannot be scored in the sandbox" in result.stderr
    assert f"{lines[0]['task_id']} (the tests' arguments: a value of type function" in result.stderr
    assert not out.exists()
