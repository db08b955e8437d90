"""Locks in a results folder, which the system releases when their holder ends, for whatever reason.

Guarantees: `exclusive` admits one worker of a folder at a time; `is_held` tells whether a worker is still alive, even
from another container and right after a kill -9. This holds on the disks of one machine: on a network file system
neither these locks nor SQLite's reach the other machines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Wait for a lock file and hold it; the file is created if it is missing, and stays."""
    with file.open("ab") as opened:
        _lock(opened)
        yield


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold this process's own lock file, and remove it at the end."""
    try:
        while True:  # another process may remove the file before we hold it, as one of a dead worker
            with file.open("ab") as opened:
                _lock(opened)
                if file.exists():
                    yield
                    return
    finally:
        file.unlink(missing_ok=True)


def is_held(file: Path) -> bool:
    """Whether somebody holds a lock file."""
    try:
        with file.open("rb") as opened:
            _lock(opened, ask=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock(opened: IO[bytes], ask: bool = False) -> None:
    """Wait for a lock and take it; or only `ask`: then raise BlockingIOError if somebody holds it."""
    import fcntl  # not on every system; reading a finished search works without it

    # Shared, so that two processes that ask at once do not take each other for the holder.
    fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB if ask else fcntl.LOCK_EX)
