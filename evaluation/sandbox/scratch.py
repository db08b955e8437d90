"""The folder that a run may write, empty at its start."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

SCRATCH_BYTES = 64 << 20
_FILES = 1000


class Scratch:
    """A folder of its own for one solution's zygote, used by one run after another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_full(self) -> bool:
        """Whether the run that writes it now has more files, or larger ones, than it may have."""
        files = size = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the run deletes files while they are counted
                    size += entry.stat(follow_symlinks=False).st_size
                    files += 1
        return files > _FILES or size > SCRATCH_BYTES

    def empty(self) -> None:
        """Remove what a run that has ended left; it could make no folders, for want of a system call."""
        for entry in self.path.iterdir():
            entry.unlink()

    def remove(self) -> None:
        """Remove the folder, if it is not a mount."""
        shutil.rmtree(self.path, ignore_errors=True)
