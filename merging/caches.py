"""Caches: files that spare the next process what took long to make, and the folder for them in the user's home."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """Return the folder for things of a kind (``XDG_CACHE_HOME``, by default ~/.cache), or None if it is read-only."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "merge-search" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def put(file: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all, whoever else writes it and whatever ends the process.

    What a killed process leaves beside it is called ``.NAME.*.part``. Raises OSError.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("wb") as out:
            out.writelines(parts)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
