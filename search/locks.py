"""Locks in a results folder, which the system drops when their holder ends, however that comes about.

Guarantees: of the workers on one folder, one at a time is inside `exclusive`; `is_held` tells whether a worker still
lives, also from another container, and at once after a kill -9. This holds on the disks of one machine: on a network
file system neither these locks nor those of SQLite reach the other machines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; the file is made if need be and stays."""
    with file.open("ab") as opened:
        _lock(opened)
        yield


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a lock file of one's own for as long as this lasts, and remove it after."""
    try:
        while True:  # who finds it before it is held takes it for one of a dead worker, and removes it
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
    """Take a lock, waiting for it; or only ask: then raise BlockingIOError if somebody holds it."""
    import fcntl  # not everywhere; whoever reads a finished search does without

    # Shared, so that two who ask at once do not take each other for the holder.
    fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB if ask else fcntl.LOCK_EX)
