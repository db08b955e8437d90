"""Where an export goes, and how many bytes that takes: checked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from merging.errors import MergingError

_SIZES = (("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("bytes", 1))
# Of the config source's files, those that may come with the weights.
_COPIED = (".json", ".jinja", ".model", ".txt", ".py")
# mergekit-yaml's K, M and B (billion) are bytes, too.
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 10**3, "M": 10**6, "B": 10**9}


def check_free(to: Path) -> None:
    """Raise MergingError if a folder cannot be made, or holds something."""
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
            f"{to}: the export needs {_size(needed)} and the disk has {_size(free)} free; "
            "make room or choose another folder"
        )


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which it has one."""
    unit, factor = next(((unit, factor) for unit, factor in _SIZES if count >= factor), _SIZES[-1])
    return f"{count / factor:.{2 if factor > 1 else 0}f} {unit}"


def size_of_the_rest(config_source: Path) -> int:
    """Return what the configs and the tokenizer take."""
    files = [file for file in config_source.iterdir() if file.is_file() and file.suffix in _COPIED]
    return sum(file.stat().st_size for file in files)


def parse_size(text: str) -> int:
    """Return the bytes that a size such as ``5GB`` or ``500M`` names. Raises MergingError if it is none."""
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit) and text[: -len(unit)].strip().replace(".", "", 1).isdigit():
            size = int(float(text[: -len(unit)]) * factor)
            if size > 0:
                return size
    raise MergingError(f"max_shard_size: {text!r} is no size; write it like 5GB or 500MB (or 5B, 500M)")
