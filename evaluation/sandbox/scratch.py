"""The scratch folder that a run may write to, empty at its start. The next pool removes folders of killed owners."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from evaluation.sandbox.errors import SandboxError

SCRATCH_BYTES = 64 << 20
_FILES = 1000
_PREFIX = "merge-search-scratch-"


def is_full(scratch: Path) -> bool:
    """Whether a run has more files or bytes in its scratch folder than it may have."""
    files = size = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # the run deletes files while they are counted
                size += entry.stat(follow_symlinks=False).st_size
                files += 1
    return files > _FILES or size > SCRATCH_BYTES


def empty(scratch: Path) -> None:
    """Remove the files of a run that has ended; it has no folders, because seccomp refuses the call that makes them."""
    for entry in scratch.iterdir():
        entry.unlink()


class OwnFolder:
    """A zygote's new scratch folder. It stays locked until it is closed, so that `sweep` leaves it alone."""

    def __init__(self) -> None:
        self._lock: int | None = None
        while True:  # another process may sweep the folder before it is locked
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(self.path, os.O_RDONLY)
                with contextlib.suppress(OSError):  # a file system without locks, where `sweep` does nothing either
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if self.path.exists():
                    self._lock = lock
                    return
                os.close(lock)

    def close(self) -> None:
        """Remove the folder; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep() -> None:
    """Remove the folders of processes that were killed. Raises SandboxError if there is no place for new ones."""
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise SandboxError(
            f"the sandbox needs a scratch folder: {error.strerror}; "
            "set TMPDIR to a folder that can be written, or start a container with --tmpfs /tmp"
        ) from None
    for path in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
