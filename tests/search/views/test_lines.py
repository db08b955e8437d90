"""Where no terminal is, a person sees plain lines."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from search.progress import SearchStatus
from search.study.record import Scoring, TrialRecord
from search.views.lines import PlainLines

BEST = TrialRecord("trial", 9, search=Scoring("complete", score=0.525))
PARENT = TrialRecord("parent", 0, "a", search=Scoring("complete", score=0.41))


def test_where_there_is_no_terminal_a_trial_is_a_plain_line() -> None:
    stream = io.StringIO()
    with PlainLines(stream) as progress:
        progress.begin("search", 40, time.monotonic() + 3600)
        progress.trial("trial 9", 5)
        progress.phase("merging")
        progress.step(1, 2)
        progress.scored(0.525, 1.25, SearchStatus(BEST, PARENT))
        progress.trial("trial 10", 6)
        progress.scored(None, 0.2, SearchStatus(BEST, pruned=2, failed=1), "merged tensor lm_head.weight holds NaN")
    first, second = stream.getvalue().splitlines()
    assert first == "search 6/40: trial 9  52.5%  1.2 s  ·  best 52.5% (trial 9), best parent 41.0%"
    assert second == (
        "search 7/40: trial 10  failed  0.2 s  ·  merged tensor lm_head.weight holds NaN  ·  "
        "best 52.5% (trial 9), 2 pruned, 1 failed"
    )
    assert "\x1b" not in stream.getvalue()


def test_a_long_phase_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.views.lines._QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    with PlainLines(stream) as progress:
        progress.begin("reading the parents", 1)
        progress.phase("tensors")
        progress.step(3, 7)
    assert stream.getvalue() == "reading the parents  ·  tensors 3/7\n"


def test_time_left_is_the_nearer_of_deadline_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("search.views.tracked.time.monotonic", lambda: now)
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.begin("search", 10, deadline=1000 + 7200)
    progress.trial("trial 4", 0)
    now = 1060.0
    progress.scored(0.5, 60, SearchStatus())
    progress.begin("search", 1000, deadline=1000 + 7200)
    progress.trial("trial 5", 1)
    now = 1120.0
    progress.scored(0.5, 60, SearchStatus())
    assert times(stream) == ["9m00s left", "1h58m left"]


def test_time_left_counts_what_comes_after_and_what_the_running_trial_has_used(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("search.views.tracked.time.monotonic", lambda: now)
    monkeypatch.setattr("search.views.lines._QUIET_SECONDS", -1.0)
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.begin("parents", 2, later=10)
    progress.trial("a", 0)
    now = 1020.0
    progress.scored(0.5, 20, SearchStatus())
    progress.trial("b", 1)
    now = 1025.0
    progress.step(1, 2)
    now = 1040.0
    progress.scored(0.5, 20, SearchStatus())
    progress.begin("search", 10)
    progress.step(1, 2)
    assert times(stream) == ["3m40s left", "3m35s left", "3m20s left", "3m20s left"]


def times(stream: io.StringIO) -> list[str]:
    """Return the part of each line about the time left."""
    return [line.rpartition("·  ")[2] for line in stream.getvalue().splitlines()]


def test_a_request_to_stop_is_told_at_once_past_all_buffers(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as stream:
        PlainLines(stream).stopping()
        assert (tmp_path / "err").read_text() == "stopping when this trial is done; once more to stop at once\n"


def test_what_a_name_or_a_message_holds_cannot_control_a_terminal() -> None:
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.trial("a\x1b[2Jb", 0)
    progress.scored(0.5, 1, SearchStatus(), "bell \a")
    progress.say("\x9b31mred")
    assert stream.getvalue() == " 1/0: a\\x1b[2Jb  50.0%  1.0 s  ·  bell \\x07\n\\x9b31mred\n"
