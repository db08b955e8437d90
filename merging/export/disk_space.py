"""The target of an export and the bytes that it needs: checked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from merging.checkpoints.model_files import TOKENIZER_FILES, matching
from merging.errors import MergingError
from merging.sizes import parse_size, shown_size

# The config source's files that may be written beside the weights.
_COPIED = ("*.json", "*.py", *TOKENIZER_FILES)


def check_free(to: Path) -> None:
    """Raise MergingError if an export cannot become this folder, or if it is not empty."""
    place = to.resolve()
    if place == Path.cwd() or place.is_mount():
        what = "a mount point" if place.is_mount() else "the current folder"
        raise MergingError(f"{to}: is {what}, which cannot be replaced by a whole model; give a folder in it")
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise MergingError(f"{to}: exists already and is not empty; choose another folder, or remove it first")


def check_space(to: Path, needed: int) -> None:
    """Raise MergingError if a disk has no room for this many bytes."""
    free = shutil.disk_usage(to.parent).free
    if free < needed:
        raise MergingError(
            f"{to}: the export needs {shown_size(needed)} and the disk has {shown_size(free)} free; "
            "make room or choose another folder"
        )


def size_of_the_rest(config_source: Path) -> int:
    """Return the bytes of the configs and the tokenizer."""
    return sum(file.stat().st_size for file in matching(config_source, _COPIED))


def shard_limit(text: str) -> int:
    """Return the bytes that one file of weights may hold, given as ``5GB`` or ``500M``. Raises MergingError."""
    try:
        limit = parse_size(text) if text[-1:].isalpha() else 0
    except ValueError:
        limit = 0
    if not limit:
        raise MergingError(f"max_shard_size: {text!r} is not a size; write it like 5GB or 500MB (or 5B, 500M)")
    return limit
