"""`merge-search` in processes of its own, which may be interrupted and killed.

They are forked from a server that has imported everything, so that none of them waits seconds for PyTorch.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import operator
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from evaluation.sandbox.verdict import Verdict
from tests.search.programs import VERDICTS, executed_once

PATIENCE_SECONDS = 120.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.search.preloaded"])


@dataclass(frozen=True)
class Command:
    """A `merge-search` that runs, and where its output goes."""

    process: ForkServerProcess
    stdout: Path
    stderr: Path
    held: Path

    @property
    def output(self) -> str:
        return self.stdout.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self.stderr.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        self.process.join(PATIENCE_SECONDS)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as long as the process lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        is_alive = True
        while not condition():
            assert is_alive, self.errors  # looked at before the condition: it may end as soon as this holds
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.02)
            is_alive = self.process.is_alive()

    def until_told(self, pattern: str) -> None:
        """Wait until stderr holds a line."""
        self.until(lambda: re.search(pattern, self.errors) is not None)

    def until_held(self) -> None:
        """Wait until the process stands where it is held."""
        self.until(self.held.exists)

    def release(self) -> None:
        """Let a process that is held go on."""
        self.held.unlink()


@contextmanager
def running(
    folder: Path,
    *words: str | Path,
    file_limit: int | None = None,
    heed_permissions: bool = False,
    held_at: tuple[Callable[..., object], int] | None = None,
) -> Iterator[Command]:
    """Start a command whose output goes into that folder.

    Args:
        folder: gets the files stdout and stderr.
        words: what to run.
        file_limit: the most bytes that a file may grow to.
        heed_permissions: be refused what a file's mode forbids, as root is not otherwise.
        held_at: a method, and which of its calls, counted from 0, does nothing until the process is released.
    """
    stdout, stderr, held = folder / "stdout", folder / "stderr", folder / "held"
    stdout.touch()
    stderr.touch()
    hold = (*held_at, held) if held_at else None
    process = _CONTEXT.Process(
        target=_main,
        # The server that processes are forked from may be older than what a test has set of the environment.
        args=(
            [str(word) for word in words],
            stdout,
            stderr,
            file_limit,
            heed_permissions,
            hold,
            VERDICTS,
            dict(os.environ),
        ),
    )
    process.start()
    try:
        yield Command(process, stdout, stderr, held)
    finally:
        process.kill()
        process.join()


def in_a_child(function: Callable[..., None], *arguments: object) -> int:
    """Run a function in a process of its own and return the exit code."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode is not None
    return process.exitcode


def _main(
    words: list[str],
    stdout: Path,
    stderr: Path,
    file_limit: int | None,
    heed_permissions: bool,
    hold: tuple[Callable[..., object], int, Path] | None,
    verdicts: Mapping[bytes, Verdict],
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if heed_permissions:
        _give_up_capabilities()
    if hold is not None:
        _hold(*hold)
    sys.argv[1:] = words
    from search.cli import main

    with executed_once(verdicts):
        main()


def _hold(method: Callable[..., object], call: int, held: Path) -> None:
    *owner, name = method.__qualname__.split(".")
    calls = itertools.count()

    def holding(*arguments: object, **options: object) -> object:
        if next(calls) == call:
            held.touch()
            while held.exists():
                time.sleep(0.01)
        return method(*arguments, **options)

    setattr(operator.attrgetter(".".join(owner))(sys.modules[method.__module__]), name, holding)


def _give_up_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, of this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")
