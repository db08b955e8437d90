"""Ctrl-C and SIGTERM at any time: they end the process with exit code 130, and no traceback.

This module imports little, because no signal is caught until it is imported.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


def stop_on_signals() -> None:
    """End the process with exit code 130 on SIGINT and SIGTERM from now on, unless a handler is set later."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM kill the process: while Python shuts down, an exception would be printed."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End the process with exit code 130 on SIGINT and SIGTERM, unless a handler is set inside."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # C code that is being initialized turns an exception into another one, or aborts: do not raise.
        # Nothing half-written stays: the next process removes it.
        _write(b"stopped\n" + _SHOW_CURSOR * os.isatty(2))
        os._exit(130)
    _write(b"stopped\n")
    raise SystemExit(130)


def _is_importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _write(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:  # nobody reads it
        return
