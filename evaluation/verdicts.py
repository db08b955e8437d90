"""Verdicts in a file, keyed by the content that was checked.

Guarantees: several processes may share a file, and find one another's verdicts. A verdict is found only for the same
program, tests, time limit, interpreter and sandbox layers, so the file can be kept, copied or deleted at any time. If a
file cannot be used, one warning says so, and nothing is kept.
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

_RULES = 1  # the version of our rules: increase it with every change that may change a verdict
_WAIT_SECONDS = 30.0
_CREATE = "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, status TEXT, detail TEXT) WITHOUT ROWID"


class Keys:
    """Makes the keys: what was checked, and how.

    Args:
        timeout_seconds: per check; None for the problem's own.
        isolation: the layers that programs run under.
    """

    def __init__(self, timeout_seconds: float | None, isolation: Isolation) -> None:
        layers = [layer.name for layer in isolation.layers if layer.active]
        self._timeout_seconds = timeout_seconds
        self._how = [_RULES, platform.python_version(), version("numpy"), *layers]

    def key(self, problem: Problem, completion: str) -> bytes:
        """Return 32 bytes."""
        # The problem's own solution decides whether tests that could not be executed are the completion's fault.
        what = [problem.prompt, completion, problem.test, problem.entry_point, problem.canonical_solution]
        return hashlib.sha256(
            json.dumps([self._how, self._timeout_seconds or problem.timeout_seconds, what]).encode()
        ).digest()


class VerdictFile:
    """A file of verdicts; created if it does not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        with self._telling():
            # A judge is used by one thread at a time.
            self._database = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
            self._database.execute(_CREATE)

    def get(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key, or None."""
        found: tuple[Status, str] | None = None
        if self._database is not None:
            with self._telling():
                rows = self._database.execute("SELECT status, detail FROM verdicts WHERE key = ?", (key,))
                found = cast("tuple[Status, str] | None", rows.fetchone())
        return Verdict(*found) if found else None

    def add(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Add verdicts."""
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
        """Stop using the file at the first error: it only saves time."""
        try:
            yield
        except sqlite3.Error as error:
            _LOG.warning("%s: cannot be used (%s), so verdicts are not kept; you may delete it", self._path, error)
            self.close()
