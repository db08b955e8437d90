"""Start-up: faster imports, and a stderr that may disappear."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LOG = logging.getLogger("search.startup")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch, transformers and other large modules without the garbage collector.

    Imports create half a million objects that stay. Does nothing if the largest module is imported already, since a
    process at work may well have garbage.
    """
    if "transformers.modeling_utils" in sys.modules:
        yield
        return
    with without_collector():
        yield


@contextmanager
def without_collector() -> Iterator[None]:
    """Turn off the garbage collector while many objects are made that stay.

    It would traverse them again and again, and once more when the process ends.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def secure_streams() -> None:
    """Keep the process alive if stderr fails, and make every path printable, whatever its bytes.

    If stdin, stdout or stderr is closed from the start, no file that is opened later takes its descriptor.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - stays open
    # Only if no test or notebook has replaced them.
    if (stdout := sys.stdout) is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="surrogateescape")
    if (stderr := sys.stderr) is sys.__stderr__ and isinstance(stderr, io.TextIOWrapper):
        sys.stderr = _lasting(2, stderr.encoding, "stderr")


def lasting_stdout() -> TextIO:
    """Return a stdout that keeps the process alive if it fails, unless a test or notebook has replaced stdout."""
    return _lasting(1, "utf-8", "stdout") if sys.stdout is sys.__stdout__ else sys.stdout


def _lasting(descriptor: int, encoding: str, called: str) -> TextIO:
    raw = _Lasting(descriptor, "wb", closefd=False)
    raw.called = called
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)


def speak_utf8() -> None:
    """Start the process again in UTF-8 mode if the locale would misread the paths in YAML and JSON files."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Lasting(io.FileIO):
    """A stream that drops what cannot be written, and logs that once."""

    called = ""
    _told = False

    def write(self, data: ReadableBuffer, /) -> int:
        written: int | None
        try:
            written = super().write(data)
        except OSError as error:
            if not self._told and _LOG.hasHandlers():  # logging's last resort is stderr itself
                self._told = True
                _LOG.warning("%s cannot be written (%s); progress is no longer shown", self.called, error.strerror)
            written = None
        return memoryview(data).nbytes if written is None else written  # None: a full pipe that does not block
