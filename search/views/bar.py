"""A bar on stderr while a command takes long."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import click

# Without a bar, only a phase that takes longer than this is named.
_QUIET_SECONDS = 2.0


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows (phase, done, total) on stderr; without a terminal it names long phases."""
    from rich.console import Console
    from rich.progress import Progress

    if not sys.stderr.isatty():
        slow = _SlowPhases()
        try:
            slow.show("starting", 0, 1)
            yield slow.show
        finally:
            slow.show("", 0, 0)
        return
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda phase, done, total: shown.update(task, description=phase, completed=done, total=total)


class _SlowPhases:
    """Names the current phase once it has run for a while."""

    def __init__(self) -> None:
        self._phase = ""
        self._timer: threading.Timer | None = None

    def show(self, phase: str, _done: int, _total: int) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer:
            self._timer.cancel()
        self._timer = threading.Timer(_QUIET_SECONDS, click.echo, (f"{phase} ...",), {"err": True}) if phase else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
