"""The database of a results folder: how it is opened, and what its errors mean.

Guarantees: who reads writes nothing; a worker waits for the others' writes rather than fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from search.errors import MAKE_ROOM, SearchError, restore

# How long a worker waits for another one's write.
_BUSY_SECONDS = 60
# An error about a file that is open does not name it.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    "full": MAKE_ROOM,
    "readonly": MAKE_ROOM,
    "disk I/O": MAKE_ROOM,
    "locked": "another process holds it: run the same command again when that is over",
    # What a search has not yet merged into the database can be read by who may write beside it.
    "unable to open": "make the folder readable and writable for you, or copy it and use the copy",
}


@contextlib.contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Raise SearchError, which names the database and the remedy, for an error of SQLite's."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # What it could not decode follows in full.
        line = str(error).partition("\n")[0].partition(" with text ")[0]
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in line), restore(file.parent))
        raise SearchError(f"{file}: {line}; {remedy}") from error


@contextlib.contextmanager
def damage(file: Path) -> Iterator[None]:
    """Raise SearchError, which names the database and the remedy, for a value that cannot be what was once kept."""
    try:
        yield
    except (ValueError, TypeError, LookupError) as error:
        raise SearchError(f"{file}: holds a damaged value; {restore(file.parent)}") from error


@contextlib.contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Raise SearchError, with the remedy, for an error of the system's that is about a file in a results folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            raise SearchError(f"{folder}: {error.strerror}; {MAKE_ROOM}") from None
        if error.filename is None or not Path(error.filename).resolve().is_relative_to(folder.resolve()):
            raise
        raise SearchError(f"{error.filename}: {error.strerror}; {MAKE_ROOM}") from None


def connect(file: Path, reading: bool = False) -> sqlite3.Connection:
    """Connect to a database, in which each statement is a transaction of its own unless one is begun.

    Args:
        file: the database; it is made if need be, unless it is only read.
        reading: write nothing, no file beside it either.
    """
    if way := _way_to_read(file, reading):
        address, is_uri = f"{file.as_uri()}?{way}", True
    else:
        address, is_uri = str(file), False
    # Several threads may use a connection, one after another.
    connection = sqlite3.connect(
        address, uri=is_uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    if not is_uri:
        # Readers do not wait for a writer. What is committed survives any end of a process; a power cut may cost the
        # last trials, and no more.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _way_to_read(file: Path, reading: bool) -> str | None:
    """Return how SQLite opens a database so that nothing is written, or None where it may be."""
    log = file.with_name(f"{file.name}-wal")
    # What a search that runs, or was killed, has committed last is in its log, which immutable=1 would leave out; where
    # there is no log SQLite wants to make one, unless immutable=1 tells it that it need not.
    if not os.access(file.parent, os.W_OK):
        return "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    # A reader that wrote could meet a worker that is about to make the tables, and would leave files of its own.
    return ("mode=ro" if log.exists() else "immutable=1") if reading else None
