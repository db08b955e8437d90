"""The page of two models, of searches and of reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from search.board.compare import Comparison, Scored, compare
from search.completion_files import Completion
from search.views.report.comparison import Answered, comparison_page
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.views.report.test_page import data_of


def sample(passed: bool, text: str) -> dict[str, Any]:
    status, detail = ("passed", "") if passed else ("timeout", "3 s are over")
    return {"passed": passed, "status": status, "detail": detail, "completion": text, "completion_tokens": 2}


FIRST = {"problems": {"a/0": sample(True, "one"), "a/1": sample(False, "two"), "a/2": sample(True, "same")}}
SECOND = {"problems": {"a/2": sample(True, "same"), "a/0": sample(False, "three"), "a/3": sample(True, "four")}}


def compared(first: dict[str, Any], second: dict[str, Any]) -> tuple[Comparison, tuple[Answered, Answered]]:
    found = compare(Scored.of_report("first.json", first), Scored.of_report("second.json", second))
    return found, (Answered.of_report("first.json", first), Answered.of_report("second.json", second))


def test_the_page_of_two_reports_has_both_answers_to_what_both_were_asked() -> None:
    data = data_of(comparison_page(*compared(FIRST, SECOND), {"a/0": "def f():"}), "problems")
    assert data["splits"][""]["tasks"] == ["a/0", "a/2"]
    assert [model["outcomes"][""] for model in data["models"]] == ["pp", "tp"]
    written = [[data["texts"][flat[1]] for flat in model["answers"][""]] for model in data["models"]]
    assert written == [["one", "same"], ["three", "same"]]
    assert data["texts"][data["models"][1]["answers"][""][0][2]] == "3 s are over"
    assert [data["texts"][number] if number >= 0 else None for number in data["splits"][""]["prompts"]] == [
        "def f():",
        None,
    ]


def test_reports_with_other_numbers_of_samples_can_be_compared() -> None:
    several = {
        "problems": {
            "a/0": {"samples": [sample(True, "x"), sample(False, "y")]},
            "a/2": {"samples": [sample(True, "z")] * 2},
        }
    }
    found, _ = compared(FIRST, SECOND)  # an interval over samples is a bootstrap, and takes seconds
    both = Answered.of_report("several.json", several), Answered.of_report("second.json", SECOND)
    data = data_of(comparison_page(found, both, {}), "problems")
    assert [model["samples"][""] for model in data["models"]] == [2, 1]
    assert [model["outcomes"][""] for model in data["models"]] == ["ptpp", "tp"]
    assert "--problems" in data["notes"][0]


def test_the_page_shows_the_weighted_scores_of_several_sets() -> None:
    sets = {"hard": {"weight": 3.0, "problems": ["a/0"]}, "easy": {"weight": 1.0, "problems": ["a/1", "a/2"]}}
    several = [{**each, "scores": {"hard": 0.0, "easy": 0.0}, "sets": sets} for each in (FIRST, SECOND)]
    page = comparison_page(*compared(*several), {})
    assert [score in page for score in (">100.0%<", ">25.0%<", ">50.0%<")] == [True, True, False]


def test_a_report_that_says_only_what_passed_can_be_shown() -> None:
    bare = {"problems": {"a/0": {"passed": False}, "a/2": {"passed": True}}}
    assert compared(bare, SECOND)[1][0].written == [Completion("a/0", "", "failed"), Completion("a/2", "", "passed")]


def test_the_command_writes_a_page_of_records_and_of_reports(
    finished: Path, shared_family: Family, command: Command, tmp_path: Path
) -> None:
    plain = command("compare", f"{finished}:0", f"{finished}:a", "--json")
    done = command("compare", f"{finished}:0", f"{finished}:a", "--json", "--html", tmp_path / "page.html")
    assert (done.exit_code, done.stdout) == (0, plain.stdout)
    data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"), "problems")
    assert [model["name"] for model in data["models"]] == ["trial 0", "a"]
    found = json.loads(plain.stdout)
    assert [task for split in data["splits"].values() for task in split["tasks"]]
    assert len(data["models"][0]["outcomes"][found["split"]]) == found["problems"]
    assert all(number >= 0 for number in data["splits"][found["split"]]["prompts"])
    reports = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in reports:
        file.write_text(json.dumps({"problems": {"one/alpha": sample(True, "x")}}), encoding="utf-8")
    done = command("compare", *reports, "--html", tmp_path / "page.html", "--problems", shared_family.problems)
    assert done.exit_code == 0, done.output
    data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"), "problems")
    assert data["texts"][data["splits"][""]["prompts"][0]].startswith("def alpha(x):")


def test_the_page_says_why_answers_are_missing_on_the_split_that_it_compares(
    finished: Path, command: Command, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    split = json.loads(command("compare", f"{folder}:a", f"{folder}:b", "--json").stdout)["split"]
    for file in (folder / "completions").glob("*parent-1.jsonl"):
        file.unlink()
    assert command("compare", f"{folder}:a", f"{folder}:b", "--html", tmp_path / "page.html").exit_code == 0
    data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"), "problems")
    whole, bare = data["models"]
    assert (whole["missing"], list(bare["missing"])) == ({}, [split])
    assert data["notes"] == [f"What b wrote is missing: {bare['missing'][split]}."]
    assert f"its file in {folder}/completions was deleted, or not copied" in data["notes"][0]


@pytest.mark.parametrize("to", ["none/page.html", ""])
def test_a_page_that_cannot_be_written_is_one_line(finished: Path, command: Command, tmp_path: Path, to: str) -> None:
    done = command("compare", f"{finished}:0", f"{finished}:a", "--html", tmp_path / to)
    assert (done.exit_code, "give another file with --html" in done.output) == (2, True)
