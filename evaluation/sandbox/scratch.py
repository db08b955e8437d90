"""The folder that a run may write, empty at its start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_BYTES = 64 << 20
_FILES = 1000


class Scratch:
    """A folder of its own for one solution's zygote, used by one run after another."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="merge-search-"))

    def is_full(self) -> bool:
        """Whether the run that writes it now has more files, or larger ones, than it may have."""
        files = size = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the run deletes files while they are counted
                    size += entry.stat(follow_symlinks=False).st_size
                    files += 1
        return files > _FILES or size > _BYTES

    def empty(self) -> None:
        """Remove what a run that has ended left."""
        for entry in self.path.iterdir():
            # A run can make folders only where there is no seccomp.
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
