"""What a preflight prints: every word of a finding at any width, and one line that says what to do."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from search.memory_demand import UNKNOWN, Memory
from search.memory_plan import MemoryPart, MemoryPlan, PlacePlan, Room
from search.preflight.finding import Finding
from search.views.preflight_table import findings_table, last_lines, preflight_data

RUN = "merge-search run night.yaml"
LONG = "größe-模型-" * 12 + "\u202e\x1b[31m"
FINDINGS = [
    Finding("ok", "problems", "2,000: 1,000 to search on, 1,000 for the report"),
    Finding("note", "configs", f"{LONG}: [bold]transformers[/] ignores foo in its config.json"),
    Finding("warning", "configs", "a: its config says use_cache: false", "set use_cache to true"),
    Finding("problem", "not checked", "memory, disk"),
]


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(findings_table(FINDINGS))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_nothing_is_cut_off_and_no_control_character_is_printed(width: int) -> None:
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    words = "".join(part for line in lines for part in line[21:].split())
    for finding in FINDINGS:
        told = finding.detail.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
        assert "".join(told.split()) in words
        assert "".join(finding.remedy.split()) in words
    assert len([line for line in lines if line.startswith("configs")]) == 1


def test_the_last_line_says_what_to_do() -> None:
    assert last_lines(FINDINGS[:2], RUN) == f"All green: {RUN}"
    assert last_lines(FINDINGS[:3], RUN) == f"Ready, with 1 warning (configs): {RUN}"
    problems = [Finding("problem", what, "") for what in ("parents", "parents", "memory")]
    assert last_lines([*FINDINGS[:3], *problems], RUN) == (
        "Not ready: 3 problems (parents, memory); fix what is listed above"
    )


def test_as_data_nothing_is_lost_and_what_is_not_known_is_none() -> None:
    place = PlacePlan(Memory("host", UNKNOWN, 10**9), (MemoryPart("parents", 5),))
    plan = MemoryPlan((place,), (), 1, Room(), "none", 0, 0)
    data = preflight_data(FINDINGS, plan, RUN)
    assert data["ready"] is False
    assert data["command"] == RUN
    assert data["findings"] == [
        {"what": it.what, "level": it.level, "detail": it.detail, "remedy": it.remedy} for it in FINDINGS
    ]
    assert data["memory"] == [{"place": "host", "free": 10**9, "total": None, "parts": {"parents": 5}}]
    assert preflight_data(FINDINGS[:3], None, RUN)["memory"] is None
    assert preflight_data(FINDINGS[:3], None, RUN)["ready"] is True
