"""Which display shows a search: a live panel on a terminal, plain lines elsewhere, JSON lines, or none."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from search.progress import Progress
from search.startup import lasting_stdout
from search.views.event_lines import EventLines
from search.views.lines import PlainLines
from search.views.tracked import STOPPING, Tracked


class Quiet(Progress):
    """Shows nothing but the answer to Ctrl-C."""

    def stopping(self) -> None:
        """Say that the search will stop, past all buffers."""
        with contextlib.suppress(OSError):  # nobody is there to read it
            os.write(2, f"{STOPPING}\n".encode())


def display(log_json: bool, quiet: bool) -> Progress:
    """Return the display that the user has chosen, by default `terminal`."""
    if log_json:
        return EventLines(lasting_stdout())
    return Quiet() if quiet else terminal()


def terminal(stream: TextIO | None = None) -> Tracked:
    """Return the display for a user: live if the stream, by default stderr, is a terminal that can do that."""
    stream = stream or sys.stderr
    if stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        from search.views.live_panel import LivePanel

        return LivePanel(stream)
    return PlainLines(stream)
