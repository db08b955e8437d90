"""Start-up: imports in less time, Ctrl-C at any instant of them, and a stderr that may go away."""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LOG = logging.getLogger("search.startup")
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch, or what else is large, without the garbage collector, which finds nothing in what stays.

    Half a million objects come, over which it would go again and again, and once more when the process ends. Where
    torch is there already nothing is done: the objects of a process that has begun to work may well be garbage.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process with exit code 130, as long as nobody else handles them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # The C code that starts up inside an import turns an exception into another, or aborts: there must be none.
        # Nothing that is half done lasts: the next process removes it.
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
    except OSError:  # nobody is there to read it
        return


def secure_streams() -> None:
    """Let nothing that becomes of stderr end the process, and let every path be printed, whatever its bytes.

    Where stdin, stdout or stderr was closed from the start, no file that is opened later is taken for it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - for good
    # Not where a test, or a notebook, has put something else there.
    if (stdout := sys.stdout) is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="surrogateescape")
    if (stderr := sys.stderr) is sys.__stderr__ and isinstance(stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(_Lasting(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, stderr.encoding, "backslashreplace", line_buffering=True)


def speak_utf8() -> None:
    """Start the process again where the locale would make other names of the paths in YAML and JSON files."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Lasting(io.FileIO):
    """A stream that drops what cannot be written, and has that logged once."""

    _told = False

    def write(self, data: ReadableBuffer, /) -> int:
        written: int | None
        try:
            written = super().write(data)
        except OSError as error:
            if not self._told and _LOG.hasHandlers():  # logging's last resort is stderr itself
                self._told = True
                _LOG.warning("stderr cannot be written (%s); what happens goes on unseen", error.strerror)
            written = None
        return memoryview(data).nbytes if written is None else written  # None: a full pipe that must not be waited for
