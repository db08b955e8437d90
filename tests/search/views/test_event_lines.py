"""A search in JSON lines: the keys are those that docs/watching.md names."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from search.progress import SearchStatus
from search.views.event_lines import EventLines
from tests.search.records import RECORDS, board

DOCUMENTED = Path(__file__).parents[3] / "docs" / "watching.md"


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was written."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def told() -> list[dict[str, Any]]:
    """Return the events of a short search."""
    stream = io.StringIO()
    with EventLines(stream) as shown:
        shown.begin("search", 40)
        shown.trial("trial 5", 4)
        shown.phase("evaluating")
        for done in range(1, 6):
            shown.step(done, 5)
        shown.scored(0.8, 1.5, SearchStatus.of(RECORDS))
        shown.trial("trial 6", 5)
        shown.scored(None, 0.2, SearchStatus(), "holds NaN\nand more")
        shown.stopping()
        shown.say("a name \udcff of any bytes")
        shown.end(board(), "results/run")
    return events(stream)


def test_each_event_has_the_documented_keys() -> None:
    text = DOCUMENTED.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", text, re.MULTILINE)
    documented = {event: set(re.findall(r"`(\w+)`", keys)) for event, keys in rows}
    found = {each["event"]: each.keys() - {"event", "time"} for each in told()}
    assert found == documented


def test_the_events_say_what_happened(capfd: pytest.CaptureFixture[str]) -> None:
    found = told()
    assert capfd.readouterr() == ("", "stopping when this trial is done; once more to stop at once\n")
    kinds = [each["event"] for each in found]
    assert kinds == [
        "begin", "trial", "phase", "step", "step", "scored", "trial", "scored", "stopping", "message", "end",
    ]  # fmt: skip
    assert [(each["done"], each["total"]) for each in found if each["event"] == "step"] == [(1, 5), (5, 5)]
    first, second = (each for each in found if each["event"] == "scored")
    assert (first["model"], first["state"], first["score"], first["done"]) == ("trial 5", "complete", 0.8, 5)
    assert first["best"] == {"model": "trial 1", "score": 0.8}
    assert first["best_parent"] == {"model": "/models/b", "score": 0.5}
    assert (first["complete"], first["failed"]) == (3, 1)
    assert (second["state"], second["score"], second["note"]) == ("failed", None, "holds NaN\nand more")
    assert (found[-1]["results"], found[-1]["verdict"], found[-1]["best"]) == ("results/run", "not proven", 1)
