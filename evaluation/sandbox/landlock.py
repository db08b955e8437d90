"""Landlock (Linux 5.13 on): a run may read the interpreter's files, and write its scratch folder.

Guarantees: site-packages are not readable; they may hold a problem set with its solutions. Landlock does not cover a
file's mode, owner and times: the seccomp filter refuses those calls.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from evaluation.sandbox.interpreter import visible

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

# The access rights of the kernel's ABI 1, then those that later ABIs added.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ADDED = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL}
_SCOPES_ABI = 6
_SCOPES = 0b11  # abstract sockets and signals of processes outside
_NETWORK_ABI = 4
_NETWORK = 0b11  # TCP bind and connect

_LIBC = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the kernel's Landlock ABI; 0 without Landlock."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def build(scratch: Path | None, numpy: Sequence[Path] = ()) -> int:
    """Return the descriptor of a ruleset, which also allows the folders of numpy. Raises OSError."""
    version = abi()
    handled = _ABI_1 | sum(right for since, right in _ADDED.items() if version >= since)
    network = _NETWORK if version >= _NETWORK_ABI else 0
    scopes = _SCOPES if version >= _SCOPES_ABI else 0
    fields = 1 + (version >= _NETWORK_ABI) + (version >= _SCOPES_ABI)
    attributes = struct.pack("QQQ", handled, network, scopes)[: 8 * fields]
    ruleset = int(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in (*visible(), *numpy, Path("/dev/urandom")):
        _allow(ruleset, path, _READ_FILE | _READ_DIR | _EXECUTE)
    _allow(ruleset, Path(os.devnull), _READ_FILE | _WRITE_FILE)
    if scratch is not None:
        _allow(ruleset, scratch, handled & ~(_REFER | _IOCTL | _EXECUTE))
    return ruleset


def enforce(ruleset: int) -> None:
    """Put this process under a ruleset, for good; it needs no-new-privs. Raises OSError."""
    if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # this system has no such file
    if not path.is_dir():
        access &= _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE
    rule = struct.pack("=Qi", access, descriptor)
    failed = _LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0
    error = ctypes.get_errno()
    os.close(descriptor)
    if failed:
        raise OSError(error, f"landlock_add_rule for {path}")
