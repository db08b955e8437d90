"""The database of a results folder: how it is opened, and what its errors mean.

Guarantees: who reads writes nothing; a worker waits for the others' writes rather than fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from search.errors import SearchError
from search.results import MAKE_ROOM, RESTORE, ResultsFolder

# How long a worker waits for another one's write.
_BUSY_SECONDS = 60
# A file that is open names itself in no error.
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
def storage_errors(folder: ResultsFolder) -> Iterator[None]:
    """Say what is wrong with the results folder, where what happens inside shows that something is."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            raise SearchError(f"{folder.path}: {error.strerror}; {MAKE_ROOM}") from None
        if error.filename is None or not Path(error.filename).resolve().is_relative_to(folder.path.resolve()):
            raise
        raise SearchError(f"{error.filename}: {error.strerror}; {MAKE_ROOM}") from None
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error if isinstance(error, StorageInternalError) else error
        raise _unusable(folder, str(getattr(cause, "orig", None) or cause)) from error


def _unusable(folder: ResultsFolder, reason: str) -> SearchError:
    line = reason.partition("\n")[0]
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in line), RESTORE)
    return SearchError(f"{folder.database}: {line}; {remedy}")


def open_storage(folder: ResultsFolder, reading: bool = False) -> RDBStorage:
    """Open the database. To read it, it must hold the study: Optuna makes the tables that it does not find."""
    if reading:
        with contextlib.closing(_connect(folder, reading)) as connection:
            if folder.study not in _names(connection):
                raise SearchError(f"{folder.database}: holds no study {folder.study!r}; {RESTORE}")
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": lambda: _connect(folder, reading)})


def _connect(folder: ResultsFolder, reading: bool) -> sqlite3.Connection:
    """Connect by path: SQLAlchemy would read a ? or a % in a URL. A worker waits for the others rather than fail."""
    if way := _way_to_read(folder, reading):
        uri = f"{folder.database.as_uri()}?{way}"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
    connection = sqlite3.connect(folder.database, timeout=_BUSY_SECONDS, check_same_thread=False)
    # Readers do not wait for a writer, and a trial's 25 commits take 0.1 s instead of 0.7 s. What is committed
    # survives any end of a process; a power cut may cost the last trials, and no more.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def holds_studies(folder: ResultsFolder, names: Collection[str]) -> bool:
    """Whether the database holds the studies of these names."""
    if not folder.database.exists():
        return False
    with contextlib.closing(_connect(folder, reading=True)) as connection:
        return set(names) <= _names(connection)


def _names(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the studies."""
    try:
        return {name for (name,) in connection.execute("SELECT study_name FROM studies")}
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return set()


def _way_to_read(folder: ResultsFolder, reading: bool) -> str | None:
    """Return how SQLite opens the database so that nothing is written, or None where it may be."""
    log = folder.database.with_name(f"{folder.database.name}-wal")
    # What a search that runs, or was killed, has committed last is in its log, which immutable=1 would leave out; where
    # there is no log SQLite wants to make one, unless immutable=1 tells it that it need not.
    if not os.access(folder.path, os.W_OK):
        return "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    # A reader that wrote could meet a worker that is about to make the tables, and would leave files of its own.
    return ("mode=ro" if log.exists() else "immutable=1") if reading else None
