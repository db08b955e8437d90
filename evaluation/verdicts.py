"""Verdicts that outlive a process: a file of them, by the content of what was checked.

Guarantees: several processes may share a file; what one of them kept another finds. A verdict is found only for the
same program, tests, time limit, interpreter and layers of the sandbox, so that the file can be kept, copied or deleted
at any time. A file that cannot be used is told once and does without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import sqlite3
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import cast

from evaluation.problems import Problem
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Status, Verdict

_LOG = logging.getLogger(__name__)

_RULES = 1  # how verdicts are made; another number for every change that may make another verdict of a program
_WAIT_SECONDS = 30.0
_CREATE = "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, status TEXT, detail TEXT) WITHOUT ROWID"


class Keys:
    """Names what was checked, and how.

    Args:
        timeout_seconds: of a check; None for what its problem gives.
        isolation: what it runs under.
    """

    def __init__(self, timeout_seconds: float | None, isolation: Isolation) -> None:
        layers = [layer.name for layer in isolation.layers if layer.active]
        self._timeout_seconds = timeout_seconds
        self._how = [_RULES, platform.python_version(), version("numpy"), *layers]

    def key(self, problem: Problem, completion: str) -> bytes:
        """Return 32 bytes."""
        # Its own solution decides whether tests that could not be carried out are the completion's fault.
        what = [problem.prompt, completion, problem.test, problem.entry_point, problem.canonical_solution]
        return hashlib.sha256(
            json.dumps([self._how, self._timeout_seconds or problem.timeout_seconds, what]).encode()
        ).digest()


class VerdictFile:
    """A file of verdicts, made when it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        with self._telling():
            # Whoever uses a judge from several threads does so one after another.
            self._database = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
            self._database.execute(_CREATE)

    def get(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key, if there is one."""
        found: tuple[Status, str] | None = None
        if self._database is not None:
            with self._telling():
                rows = self._database.execute("SELECT status, detail FROM verdicts WHERE key = ?", (key,))
                found = cast("tuple[Status, str] | None", rows.fetchone())
        return Verdict(*found) if found else None

    def add(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep verdicts."""
        rows = [(key, verdict.status, verdict.detail) for key, verdict in verdicts.items()]
        if rows and self._database is not None:
            with self._telling(), self._database:
                self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Do without the file from the first error on: it only saves time."""
        try:
            yield
        except sqlite3.Error as error:
            _LOG.warning("%s: cannot be used (%s), so verdicts are not kept; it may be deleted", self._path, error)
            self.close()
