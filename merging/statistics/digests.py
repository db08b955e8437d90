"""Digests of files: what a parent's weights are, wherever they lie and whatever they are called.

Guarantees: a file of the hub's cache, which is named by its digest, is not read; another one is read once for as long
as it stays as it is (path, size, times, inode). A file that changed after it was opened has no digest: what was
computed of it may be of what it held before. Does not see that a file was changed and its change time set back.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

from merging.caches import put

_LOG = logging.getLogger("merging.statistics")

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A file may change twice within a tick of its file system's clock, of which the coarsest are of two seconds.
_TICK_NS = 2 * 10**9


class Changed(Exception):
    """A file is not what it was when it was opened, or is not there any more."""


class FileDigests:
    """The digests of files that are opened after this is made. Safe to use from several threads.

    Args:
        memory: a file in which digests are remembered from one process to the next.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._opened = time.time_ns()
        self._known: dict[Path, str | None] = {}
        self._fresh: dict[str, list[Any]] = {}
        self._lock = threading.Lock()

    def of(self, file: Path) -> str:
        """Return the SHA-256 of a file's content, in hex. Raises Changed."""
        if file not in self._known:
            with self._lock:
                if file not in self._known:
                    self._known[file] = self._found(file)
        digest = self._known[file]
        if digest is None:
            raise Changed
        return digest

    def save(self) -> None:
        """Write what was hashed into the memory. Raises OSError."""
        if self._fresh:
            self._memory.parent.mkdir(exist_ok=True)
            put(self._memory, json.dumps(self._remembered | self._fresh, indent=0).encode())
            self._fresh = {}

    def _found(self, file: Path) -> str | None:
        try:
            return self._name_in_hub(file) or self._read(file.resolve(strict=True))
        except OSError:
            _LOG.warning("%s: is not there any more; what is computed of it is not kept on disk", file)
        except Changed:
            _LOG.warning("%s: has changed since it was opened; what is computed of it is not kept on disk", file)
        return None

    def _name_in_hub(self, file: Path) -> str | None:
        target = file.resolve(strict=True)
        is_blob = file.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name)
        return target.name if is_blob else None

    def _read(self, file: Path) -> str:
        state = _state(file)
        if file.stat().st_ctime_ns > self._opened:
            raise Changed
        *remembered, digest = self._remembered.get(str(file), [None])
        if remembered == state:
            return str(digest)
        now = time.time_ns()
        with file.open("rb") as opened:
            digest = file_digest(opened, "sha256").hexdigest()
        if _state(file) != state:
            raise Changed
        if file.stat().st_ctime_ns < now - _TICK_NS:
            self._fresh[str(file)] = [*state, digest]
        return digest

    @cached_property
    def _remembered(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self._memory.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            content = None
        if isinstance(content, dict) and all(isinstance(each, list) and each for each in content.values()):
            return content
        _LOG.warning("%s: is damaged; the parents are hashed again", self._memory)
        return {}


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
