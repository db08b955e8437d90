"""The database of a results folder: how it is opened, and what its errors mean.

Guarantees: a reader writes nothing; a worker waits for the others' writes instead of failing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from search.errors import MAKE_ROOM, SearchError, restore

# How long a worker waits for another worker's write.
_BUSY_SECONDS = 60
# Errors about lack of room; if the file is already open, they do not name it.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    "full": MAKE_ROOM,
    "readonly": MAKE_ROOM,
    "disk I/O": MAKE_ROOM,
    "locked": "another process holds it: run the same command again when that is over",
    # SQLite reads the log of a search, not yet merged into the database, only if it may write to the folder.
    "unable to open": "make the folder readable and writable for you, or copy it and use the copy",
}


@contextlib.contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Turn an error of SQLite into a SearchError that names the database and the remedy."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Cut off the whole text that SQLite could not decode.
        line = str(error).partition("\n")[0].partition(" with text ")[0]
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in line), restore(file.parent))
        raise SearchError(f"{file}: {line}; {remedy}") from error


@contextlib.contextmanager
def damage(file: Path) -> Iterator[None]:
    """Turn an error of reading a damaged value into a SearchError that names the database and the remedy."""
    try:
        yield
    except (ValueError, TypeError, LookupError) as error:
        raise SearchError(f"{file}: holds a damaged value; {restore(file.parent)}") from error


@contextlib.contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turn a system error about a file in a results folder into a SearchError with the remedy."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            raise SearchError(f"{folder}: {error.strerror}; {MAKE_ROOM}") from None
        if error.filename is None or not Path(error.filename).resolve().is_relative_to(folder.resolve()):
            raise
        raise SearchError(f"{error.filename}: {error.strerror}; {MAKE_ROOM}") from None


def connect(file: Path, reading: bool = False) -> sqlite3.Connection:
    """Connect to a database. Each statement is its own transaction, unless one has been begun.

    Args:
        file: the database; it is created if it is missing, unless it is only read.
        reading: write nothing, not even a file beside the database.
    """
    if way := _way_to_read(file, reading):
        address, is_uri = f"{file.as_uri()}?{way}", True
    else:
        address, is_uri = str(file), False
    # Several threads may use the connection, one after another.
    connection = sqlite3.connect(
        address, uri=is_uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    if not is_uri:
        # Readers do not wait for a writer. Commits survive any end of a process; a power cut costs at most the last
        # trials.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _way_to_read(file: Path, reading: bool) -> str | None:
    """Return SQLite's option to open a database without writing anything; None if writing is allowed."""
    log = file.with_name(f"{file.name}-wal")
    # The last commits of a running or killed search are in its log, which immutable=1 would ignore. Without a log,
    # SQLite would make one, and only immutable=1 keeps it from doing so.
    if not os.access(file.parent, os.W_OK):
        return "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    # A reader that wrote could collide with a worker that creates the tables, and would leave files behind.
    return ("mode=ro" if log.exists() else "immutable=1") if reading else None
