"""What a person sees: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import time
from pathlib import Path

import pytest

from search.progress import Terminal


def test_where_there_is_no_terminal_a_trial_is_a_plain_line() -> None:
    stream = io.StringIO()
    with Terminal(stream) as progress:
        progress.begin("search", 40, time.monotonic() + 3600)
        progress.trial("trial 9", 5)
        progress.phase("merging")
        progress.step(1, 2)
        progress.scored(0.525, 1.25, "best 52.5% (trial 9), best parent 41.0%")
        progress.trial("trial 10", 6)
        progress.scored(None, 0.2, "best 52.5% (trial 9)", "merged tensor lm_head.weight holds NaN")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("search 6/40: trial 9  52.5%  1.2 s  ·  best 52.5% (trial 9), best parent 41.0%  ·  ")
    assert first.endswith(" left")
    assert second.startswith("search 7/40: trial 10  failed  0.2 s  ·  merged tensor lm_head.weight holds NaN  ·  best")
    assert "\x1b" not in stream.getvalue()


def test_a_long_phase_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.progress._QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    with Terminal(stream) as progress:
        progress.begin("reading the parents", 1)
        progress.phase("tensors")
        progress.step(3, 7)
    assert stream.getvalue() == "reading the parents  ·  tensors 3/7\n"


def test_time_left_is_the_nearer_of_deadline_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("search.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    progress = Terminal(stream)
    progress.begin("search", 10, deadline=1000 + 7200)
    progress.trial("trial 4", 0)
    now = 1060.0
    progress.scored(0.5, 60)
    progress.begin("search", 1000, deadline=1000 + 7200)
    progress.trial("trial 5", 1)
    now = 1120.0
    progress.scored(0.5, 60)
    assert [line.rpartition("·  ")[2] for line in stream.getvalue().splitlines()] == ["9m00s left", "1h58m left"]


def test_a_request_to_stop_is_told_at_once_past_all_buffers(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as stream:
        Terminal(stream).stopping()
        assert (tmp_path / "err").read_text() == "stopping when this trial is done; once more to stop at once\n"


def test_on_a_terminal_there_is_one_live_line() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, Terminal(stream) as progress:
        progress.begin("search", 40)
        progress.trial("trial 9", 5)
        progress.phase("evaluating")
        progress.step(10, 82)
        progress.stopping()
        time.sleep(0.6)
        progress.scored(0.525, 1.25, "best 52.5%")
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "stopping; once more: at once  ·  search 5/40: trial 9  ·  evaluating 10/82" in shown
    assert "search 6/40: trial 9  52.5%  1.2 s" in shown
