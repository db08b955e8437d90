"""Which display a person gets."""

from __future__ import annotations

import io
import os
import pty

import pytest

from search.progress import Progress, SearchStatus
from search.views.lines import PlainLines
from search.views.live_panel import LivePanel
from search.views.terminal import display, terminal


def test_only_a_terminal_that_can_move_its_cursor_gets_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours):
        assert isinstance(terminal(stream), LivePanel)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(terminal(stream), PlainLines)


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_no_variable_puts_control_codes_into_a_file(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    stream = io.StringIO()
    with terminal(stream) as shown:
        tell(shown)
    assert stream.getvalue() == "search 1/2: trial 0  50.0%  1.0 s\n"


def test_quiet_answers_only_ctrl_c(capfd: pytest.CaptureFixture[str]) -> None:
    with display(log_json=False, quiet=True) as shown:
        tell(shown)
        assert capfd.readouterr() == ("", "")
        shown.stopping()
    assert capfd.readouterr() == ("", "stopping when this trial is done; once more to stop at once\n")


def tell(shown: Progress) -> None:
    """Tell of one trial."""
    shown.begin("search", 2)
    shown.trial("trial 0", 0)
    shown.phase("merging")
    shown.step(1, 1)
    shown.scored(0.5, 1.0, SearchStatus())
