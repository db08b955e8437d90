"""A person sees a live line on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import threading
import time
from pathlib import Path

import pytest

from search.study.record import Scoring, TrialRecord
from search.views.bar import bar
from search.views.progress import SearchStatus
from search.views.terminal import Terminal

BEST = TrialRecord("trial", 9, search=Scoring("complete", score=0.525))
PARENT = TrialRecord("parent", 0, "a", search=Scoring("complete", score=0.41))


def test_where_there_is_no_terminal_a_trial_is_a_plain_line() -> None:
    stream = io.StringIO()
    with Terminal(stream) as progress:
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
    monkeypatch.setattr("search.views.terminal._QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    with Terminal(stream) as progress:
        progress.begin("reading the parents", 1)
        progress.phase("tensors")
        progress.step(3, 7)
    assert stream.getvalue() == "reading the parents  ·  tensors 3/7\n"


def test_time_left_is_the_nearer_of_deadline_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("search.views.terminal.time.monotonic", lambda: now)
    stream = io.StringIO()
    progress = Terminal(stream)
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
    monkeypatch.setattr("search.views.terminal.time.monotonic", lambda: now)
    monkeypatch.setattr("search.views.terminal._QUIET_SECONDS", -1.0)
    stream = io.StringIO()
    progress = Terminal(stream)
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
        shown = ""
        while "stopping; once more: at once  ·  search 5/40: trial 9  ·  evaluating 10/82" not in shown:
            shown += os.read(ours, 4096).decode()
        progress.scored(0.525, 1.25, SearchStatus(BEST))
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while read := os.read(ours, 4096):
            shown += read.decode()
    os.close(ours)
    assert "search 6/40: trial 9  52.5%  1.2 s" in shown


def test_a_narrow_terminal_shows_all_of_it_on_more_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, Terminal(stream) as progress:
        progress.begin("parents", 40, time.monotonic() + 7230)
        progress.trial("a-model-whose-name-is-long-enough-for-two-numeric", 5)
        progress.phase("evaluating")
        progress.step(10, 82)
        shown = ""
        while "h00m left" not in shown:
            shown += os.read(ours, 4096).decode()
    os.close(ours)
    first, second = re.findall(r"parents 5/40: .*|evaluating 10/82.*left", shown)[-2:]
    assert first.strip() == "parents 5/40: a-model-whose-name…h-for-two-numeric"
    assert second == "evaluating 10/82  ·  2h00m left"


def test_where_there_is_no_bar_a_phase_that_takes_long_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.views.bar._QUIET_SECONDS", 0.01)
    with bar() as show:
        for phase in ("starting", "compiling"):
            for done in range(3):
                show(phase, done, 3)
            # Not read while a timer may write: what is written in between would be lost.
            for timer in _timers():
                timer.join()
        monkeypatch.setattr("search.views.bar._QUIET_SECONDS", 600.0)
        show("merging", 1, 3)
    assert capsys.readouterr().err == "starting ...\ncompiling ...\n"


def test_what_is_quick_is_not_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("search.views.bar._QUIET_SECONDS", 600.0)
    with bar() as show:
        show("quick", 1, 1)
        show("merging", 1, 1)
    assert all(timer.finished.is_set() for timer in _timers())  # each was called off
    assert capsys.readouterr().err == ""


def _timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_the_status_of_a_search_names_the_best_and_counts_how_trials_ended() -> None:
    waiting = TrialRecord("trial", 10)
    pruned, failed = (TrialRecord("trial", 11, search=Scoring(state)) for state in ("pruned", "failed"))
    records = [PARENT, BEST, waiting, pruned, failed, failed]
    assert SearchStatus.of(records) == SearchStatus(BEST, PARENT, complete=1, pruned=1, failed=2)
    assert SearchStatus.of([waiting]) == SearchStatus()
