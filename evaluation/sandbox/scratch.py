"""The folder that a run may write to, empty at its start. The next pool removes folders of killed processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

SCRATCH_BYTES = 64 << 20
_FILES = 1000
_PREFIX = "merge-search-scratch-"


class ScratchFolder:
    """The folder of one solution's zygote, used by one run after another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_full(self) -> bool:
        """Whether the current run has more or larger files than it may have."""
        files = size = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the run may delete files meanwhile
                    size += entry.stat(follow_symlinks=False).st_size
                    files += 1
        return files > _FILES or size > SCRATCH_BYTES

    def empty(self) -> None:
        """Remove the files of a run that has ended; runs cannot make folders, since that system call is refused."""
        for entry in self.path.iterdir():
            entry.unlink()

    def remove(self) -> None:
        """Remove the folder, unless it is a mount."""
        shutil.rmtree(self.path, ignore_errors=True)


class LockedFolder:
    """A new temporary folder, locked until it is closed, so that `sweep` leaves it alone."""

    def __init__(self) -> None:
        self._lock: int | None = None
        while True:  # another process may sweep it before it is locked
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(self.path, os.O_RDONLY)
                with contextlib.suppress(OSError):  # without locks here, nobody sweeps here
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if self.path.exists():
                    self._lock = lock
                    return
                os.close(lock)

    def close(self) -> None:
        """Remove it; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep() -> None:
    """Remove the folders of killed processes."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
