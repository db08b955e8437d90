"""Which files of this system a run may see: the interpreter's, its library's and numpy's.

Guarantees: no other package is among them, since one may hold a problem set with its solutions.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_PACKAGES = ("site-packages", "dist-packages")
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")


def executable() -> str:
    """Return the interpreter itself; a virtual environment's is a link, or a copy that needs its folder."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def folders() -> tuple[Path, ...]:
    """Return the files and folders that the interpreter needs to start; `hidden` lies within."""
    extensions = (Path(path) for path in sys.path if path.endswith("lib-dynload"))
    # Some interpreters find their own library by LD_LIBRARY_PATH.
    linked = (Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path)
    found = (Path(os.__file__).parents[1], Path(sys.base_prefix, "lib"), *extensions, *linked, *map(Path, _SYSTEM))
    return tuple(dict.fromkeys(path for path in found if path.exists()))


def hidden() -> tuple[Path, ...]:
    """Return the folders of packages that lie within `folders`."""
    found = (package for folder in folders() for name in _PACKAGES for package in folder.glob(f"python*/{name}"))
    return tuple(dict.fromkeys(path for path in found if path.is_dir() and not path.is_symlink()))


def numpy_folders() -> tuple[Path, ...]:
    """Return the folders of numpy and of its libraries; none if numpy is not installed."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or not spec.submodule_search_locations:
        return ()
    package = Path(spec.submodule_search_locations[0])
    return tuple(path for path in (package, package.with_name("numpy.libs")) if path.is_dir())


def visible() -> Iterator[Path]:
    """Yield `folders` without the `hidden` ones in them, for a layer that can allow but not deny."""
    away = frozenset(os.path.realpath(path) for path in hidden())
    for folder in dict.fromkeys(os.path.realpath(path) for path in folders()):
        yield from _without(away, folder)


def _without(away: Collection[str], folder: str) -> Iterator[Path]:
    if not any(path.startswith(f"{folder}/") for path in away):
        yield Path(folder)
    else:
        for entry in os.scandir(folder):
            if entry.path not in away:
                yield from _without(away, entry.path)
