"""The page: one file that needs no other, and in which whatever a model or a person wrote stays text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from search.board.leaderboard import Leaderboard
from search.evidence import SearchEvidence
from search.views.report.page import page, page_of, utf8
from search.views.report.section import Section
from tests.search.conftest import Command
from tests.search.records import RECORDS, SPLITS, board

TASKS = {name: [f"{name}/{place}" for place in range(split.problems)] for name, split in SPLITS.items()}
HOSTILE = "</script><script>alert(1)</script><!-- \0 \u2028 \u202e &lt; \ud800"


class _Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts of its scripts by their ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = str(dict(attrs).get("id", "")) if tag == "script" else ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.scripts[self._in] = self.scripts.get(self._in, "") + data


def data_of(text: str, key: str) -> Any:
    """Read the data of a section back from the page."""
    found = _Elements(text)
    kept = found.scripts[f"data-{key}"]
    attributes = next(attributes for _, attributes in found.elements if attributes.get("id") == f"data-{key}")
    return json.loads(zlib.decompress(base64.b64decode(kept)) if "data-deflated" in attributes else kept)


@pytest.mark.parametrize("times", [1, 3000])
def test_hostile_data_stays_data(times: int) -> None:
    text = page_of("t", [Section("hostile", HOSTILE, escape(HOSTILE), {"text": HOSTILE * times})])
    assert data_of(text, "hostile") == {"text": HOSTILE * times}
    written = utf8(text).decode()
    assert [attributes for tag, attributes in _Elements(written).elements if tag == "script" and not attributes] == [
        {},
        {},  # the two scripts of the frame
    ]
    assert "alert(1)</script>" not in written
    assert "\0" not in written


def test_the_page_needs_no_other_file() -> None:
    found = _Elements(page(SearchEvidence("run", Path("results/run"), board(), RECORDS, SPLITS, TASKS)))
    linked = [attributes for _, attributes in found.elements if attributes.keys() & {"src", "href"}]
    assert all(str(attributes["href"]).startswith("#") for attributes in linked)
    policy = next(str(of["content"]) for _, of in found.elements if of.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert re.findall(r"https?:", policy) == []


def test_the_command_writes_the_report_into_the_results_folder(
    finished: Path, command: Command, tmp_path: Path
) -> None:
    done = command("report", finished, "--to", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    sentence = escape(Leaderboard.open(finished).verdict.sentence)
    assert sentence in (tmp_path / "page.html").read_text(encoding="utf-8")
    refused = command("report", finished, "--to", tmp_path / "none" / "page.html")
    assert (refused.exit_code, "give another file with --to" in refused.output) == (2, True)


def test_the_evidence_has_completions_and_problems(finished: Path) -> None:
    evidence = SearchEvidence.open(finished)
    winner = evidence.winner
    assert winner
    written = evidence.completions(winner, "search")
    assert [each.task_id for each in written] == list(evidence.tasks["search"])
    assert "".join(each.status[0] for each in written) == winner.search.outcomes
    assert {each.task_id for each in written} <= evidence.problems.keys()
    assert evidence.no_problems == ""
    assert evidence.workplaces.keys() >= {record.search.worker for record in evidence.records}  # also of those gone
    assert not evidence.is_at_work
