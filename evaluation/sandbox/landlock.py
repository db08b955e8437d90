"""Which files a solution can touch (Landlock, Linux 5.13 on): it may read the interpreter's, and write its scratch folder."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIR
_ALL_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15

_LIBC = ctypes.CDLL(None, use_errno=True)


def make_ruleset(scratch: str) -> int | None:
    """Return a descriptor of the ruleset, or None where the kernel has no Landlock."""
    version = _LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return None
    handled = _ALL_OF_ABI_1
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL if version >= 5 else 0
    attributes = struct.pack("Q", handled)
    ruleset = int(_LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        return None
    for path in _readable():
        _allow(ruleset, path, _READ | _EXECUTE)
    _allow(ruleset, os.devnull, _READ_FILE | _WRITE_FILE)
    _allow(ruleset, scratch, handled & ~(_REFER | _IOCTL | _EXECUTE))
    return ruleset


def restrict(ruleset: int) -> bool:
    """Apply a ruleset to this process for good; it needs no-new-privileges. Returns whether that was possible."""
    return bool(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0) == 0)


def _readable() -> Iterable[str]:
    # The standard library without site-packages: those may hold a problem set with its solutions.
    library = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib is not worth its import here
    for name in os.listdir(library):  # noqa: PTH208
        if name not in ("site-packages", "dist-packages"):
            yield os.path.join(library, name)  # noqa: PTH118
    yield from (path for path in sys.path if path.endswith("lib-dynload"))
    yield from ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/urandom")


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):  # noqa: PTH112
        access &= _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE
    rule = struct.pack("=Qi", access, descriptor)
    _LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    os.close(descriptor)
