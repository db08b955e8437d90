"""Digests of files: they identify the content of a file, whatever its path and name.

Guarantees: a file of the hub's cache, which is named by its digest, is not read; any other file is read once on this
machine until its path, size, times or inode change. A file that changed after it was opened has no digest: what was
computed from it may come from its old content. Does not notice a change if the file's change time was set back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from hashlib import file_digest, sha256
from pathlib import Path

from merging.caches import cache_folder, put

_LOG = logging.getLogger("merging.statistics")

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A file may change twice within a tick of its file system's clock; the coarsest clocks tick every two seconds.
_TICK_NS = 2 * 10**9


class FileChanged(Exception):
    """A file has changed since it was opened, or is gone."""


class FileDigests:
    """The digests of files that are opened after this object is made. Safe to use from several threads.

    Digests are remembered for later processes in the user's cache, if that can be written.
    """

    def __init__(self) -> None:
        self._memory = cache_folder("digests")
        self._opened = time.time_ns()
        self._known: dict[Path, str | None] = {}
        self._states: dict[Path, list[int]] = {}
        self._lock = threading.Lock()

    def of(self, file: Path) -> str:
        """Return the SHA-256 of a file's content, in hex. Raises FileChanged."""
        if file not in self._known:
            with self._lock:
                if file not in self._known:
                    self._known[file] = self._found(file)
        digest = self._known[file]
        if digest is None or (file in self._states and _state_now(file) != self._states[file]):
            raise FileChanged
        return digest

    def is_unchanged(self, file: Path) -> bool:
        """Whether a file that was hashed has kept its content; a file that is gone counts as unchanged.

        If its times have changed, it is hashed again.
        """
        state = _state_now(file)
        if state is None or file not in self._states or state == self._states[file]:
            return True
        try:
            is_same = FileDigests().of(file) == self._known[file]
        except FileChanged:
            return False
        if is_same:
            self._states[file] = state
        return is_same

    def known(self, file: Path) -> bool:
        """Whether `of` can answer without reading the file."""
        try:
            return file in self._known or bool(_name_in_hub(file) or self._remembered(file.resolve(strict=True)))
        except OSError:
            return False

    def begin(self, files: Iterable[Path]) -> list[Future[str]]:
        """Hash files one after another in the background; return, in order, futures of what `of` returns or raises."""
        work = [(file, Future[str]()) for file in files]

        def hash_all() -> None:
            for file, future in work:
                try:
                    future.set_result(self.of(file))
                except Exception as error:  # raised to whoever asks for the result
                    future.set_exception(error)

        # A daemon, so that an interrupted process does not wait for gigabytes.
        threading.Thread(target=hash_all, name="digests", daemon=True).start()
        return [future for _, future in work]

    def _found(self, file: Path) -> str | None:
        try:
            if name := _name_in_hub(file):
                return name
            self._states[file] = _state(file)
            return self._read(file.resolve(strict=True))
        except OSError:
            _LOG.warning("%s: is gone; what is computed from it is not kept on disk", file)
        except FileChanged:
            _LOG.warning("%s: has changed since it was opened; what is computed from it is not kept on disk", file)
        return None

    def _read(self, file: Path) -> str:
        state = _state(file)
        if file.stat().st_ctime_ns > self._opened:
            raise FileChanged
        if remembered := self._remembered(file):
            return remembered
        now = time.time_ns()
        with file.open("rb") as opened:
            digest = file_digest(opened, "sha256").hexdigest()
        if _state(file) != state:
            raise FileChanged
        if self._memory and file.stat().st_ctime_ns < now - _TICK_NS:
            with contextlib.suppress(OSError):  # a full disk: it is hashed again next time
                put(self._note(self._memory, file), json.dumps([*state, digest]).encode())
        return digest

    def _remembered(self, file: Path) -> str | None:
        """Return the remembered digest of a file that has not changed since it was hashed."""
        if self._memory is None:
            return None
        try:
            *state, digest = json.loads(self._note(self._memory, file).read_bytes())
        except (OSError, ValueError, TypeError):  # not hashed yet, or truncated by a crash
            return None
        return digest if state == _state(file) and isinstance(digest, str) and _SHA256.fullmatch(digest) else None

    @staticmethod
    def _note(memory: Path, file: Path) -> Path:
        return memory / f"{sha256(bytes(file)).hexdigest()[:32]}.json"


def _name_in_hub(file: Path) -> str | None:
    target = file.resolve(strict=True)
    is_blob = file.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name)
    return target.name if is_blob else None


def _state_now(file: Path) -> list[int] | None:
    try:
        return _state(file)
    except OSError:
        return None


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
