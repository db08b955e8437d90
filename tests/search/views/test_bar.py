"""A command that takes long shows a bar on a terminal, and names its phases elsewhere."""

from __future__ import annotations

import threading

import pytest

from search.views.bar import bar


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
