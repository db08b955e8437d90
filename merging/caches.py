"""Caches: files that save the next process slow work, and their folder in the user's home.

Guarantees: a file or folder appears whole or not at all, even if several processes make it or one is killed. A
killed process leaves ``.NAME.*.part`` behind. `sweep` removes such leftovers, but keeps what a running process is
still making.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """Return the folder for things of a kind (``XDG_CACHE_HOME``, by default ~/.cache), or None if it is read-only."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "merge-search" / kind
    return folder if _usable(folder) else None


def put(file: Path, *parts: bytes | memoryview) -> None:
    """Write a file whole or not at all. Raises OSError."""
    part = _part(file)
    try:
        with _held(part, part.touch), part.open("wb") as out:
            out.writelines(parts)
            out.flush()
            part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def part_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` to build it in; remove it at the end if it is still there. Raises OSError."""
    part = _part(target)
    try:
        with _held(part, lambda: part.mkdir(mode=0o700, exist_ok=True)):
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path, pattern: str = ".*.part") -> None:
    """Remove the files and folders that match the pattern and whose makers are gone: nobody holds their locks."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor, wait=False):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


@cache
def _usable(folder: Path) -> bool:
    """Whether a folder exists and can be written; sweeps its leftovers. Checked once per process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            sweep(folder)
            return True
    except OSError:
        return False


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


@contextlib.contextmanager
def _held(path: Path, make: Callable[[], None]) -> Iterator[None]:
    """Make a file or folder and hold its lock, which tells `sweep` that its maker still runs."""
    while True:  # another process may sweep it before we hold it
        make()
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks; `sweep` gets none there either
                _lock(descriptor, wait=True)
            if path.exists():
                break
            os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Return whether we hold the lock now. Raises OSError without locks, or if it is taken and `wait` is false."""
    try:
        import fcntl
    except ModuleNotFoundError:  # on Windows
        return False
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return True
