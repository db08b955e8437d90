"""bubblewrap: gives each zygote its own namespaces, with the interpreter's files, one writable folder and nothing else.

Guarantees: no network, no other processes, no /proc, no home, no folder that two zygotes share. Everything is read-only
except the scratch folder, whose size is bounded. ``attacks`` tries what the arguments must stop.
"""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.sandbox.interpreter import executable, folders, hidden, numpy_folders
from evaluation.sandbox.scratch import SCRATCH_BYTES

SCRATCH = Path("/scratch")
_DEVICES = ("/dev/null", "/dev/urandom")
_START_SECONDS = 30
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """The bubblewrap of this system, if it works.

    Attributes:
        command: the prefix of a command to run in it; empty if it does not work.
        detail: its version, or why it does not work.
    """

    command: tuple[str, ...]
    detail: str


def find() -> Bubblewrap:
    """Look for bubblewrap on the PATH and try it; the result is kept per program."""
    program = shutil.which("bwrap")
    return _try(program) if program else Bubblewrap((), "there is no bwrap on the PATH")


@cache
def _try(program: str) -> Bubblewrap:
    """Start an interpreter in it, as a pool does."""
    command = (program, *_arguments())
    try:
        started = _run([*command, executable(), "-I", "-S", "-c", ""])
        version = _run([program, "--version"])
    except (OSError, subprocess.TimeoutExpired) as error:
        return Bubblewrap((), f"{program} cannot be started: {error}")
    if started.returncode != 0:
        said = textwrap.shorten(started.stderr, 200, placeholder=" ...") or f"it ended with {started.returncode}"
        return Bubblewrap((), f"{program} does not work here: {said}")
    return Bubblewrap(command, version.stdout.rpartition(" ")[2].strip())


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_START_SECONDS, check=False, env={})


def _arguments() -> Iterator[str]:
    yield from ("--unshare-all", "--die-with-parent")
    program = Path(executable())
    for path in (*folders(), program):
        yield from ("--ro-bind", str(path), str(path))
    for path in hidden():
        yield from ("--tmpfs", str(path))
    # These may lie in the folders hidden above.
    for path in (*numpy_folders(), _PACKAGE):
        yield from ("--ro-bind", str(path), str(path))
    for path in hidden():
        yield from ("--remount-ro", str(path))
    for device in _DEVICES:
        yield from ("--dev-bind", device, device)
    yield from ("--size", str(SCRATCH_BYTES), "--tmpfs", str(SCRATCH), "--remount-ro", "/", "--chdir", "/", "--")
