"""Attacks that must not succeed. Each is tried at the start, under the layers that must stop it.

Guarantees: an attack that gets through does no harm: it changes nothing, or removes what it made. ``confinement`` tries
each in a process of its own, which then ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evaluation.sandbox.limits import FILE_BYTES, MEMORY_BYTES
from evaluation.sandbox.seccomp import MACHINES
from evaluation.sandbox.syscalls import FORBIDDEN

Attack = Callable[[], object]  # raises OSError when it is refused

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_GET_NO_NEW_PRIVS = 39
_PTRACE_SEIZE = 0x4206

_FOREIGN_FILES = ("/etc/passwd", "/etc/hostname", "/proc/self/status", "/proc/1/cmdline")
_FOREIGN_FOLDERS = ("/", "/tmp", "/var/tmp", "/dev/shm", str(Path(os.__file__).parent))


def _take_memory() -> None:
    """Map more memory than a run may have."""
    mmap.mmap(-1, MEMORY_BYTES + (64 << 20)).close()


def _write_much() -> None:
    """Make a file larger than a run may."""
    file = os.memfd_create("large")
    try:
        os.ftruncate(file, FILE_BYTES + 1)
    finally:
        os.close(file)


def _gain_privileges() -> None:
    """Check whether executing another user's program could gain that user's rights."""
    if _LIBC.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0:  # -1: seccomp refuses the call
        raise PermissionError


def _open_socket() -> None:
    """Open sockets of several families."""
    _any(partial(socket.socket, socket.AF_INET, socket.SOCK_STREAM), socket.socketpair)


def _make_process() -> None:
    """Fork."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _execute_program() -> None:
    """Execute a folder; the error shows whether the call got past seccomp."""
    try:
        os.execve("/", ["/"], {})
    except OSError as error:
        if error.errno == errno.EPERM:
            raise


def _signal_others() -> None:
    """Signal the process that made this one."""
    os.kill(os.getppid(), 0)


def _trace_others() -> None:
    """Attach to the process that made this one as a debugger."""
    if _LIBC.ptrace(_PTRACE_SEIZE, os.getppid(), 0, 0) != 0:
        raise PermissionError


def _change_mode() -> None:
    """Set a file's mode to its current value."""
    file = Path(os.__file__)
    file.chmod(stat.S_IMODE(file.stat().st_mode))


def _set_limits() -> None:
    """Set a limit to its current value; as root, a process that may do so may also raise it."""
    resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))


def _call_kernel() -> None:
    """Make system calls that no program needs, with arguments that make them harmless."""
    column, _ = MACHINES[os.uname().machine]
    for numbers in FORBIDDEN.values():
        called = _LIBC.syscall(ctypes.c_long(numbers[column]), 0, 0, 0, 0, 0)
        if called >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            return
    raise PermissionError


def _read_others() -> None:
    """Read a file that is not part of the interpreter."""
    _any(*(partial(os.open, path, os.O_RDONLY) for path in _FOREIGN_FILES))


def _read_our_code() -> None:
    """Read a file of this package, the only foreign files that bubblewrap leaves readable."""
    os.open(__file__, os.O_RDONLY)


def _write_others() -> None:
    """Make a file outside the scratch folder."""
    _any(*(partial(_make_file, folder) for folder in _FOREIGN_FOLDERS))


# The attacks by layer. Each name continues a sentence that begins with "a program".
BY_LAYER: dict[str, dict[str, Attack]] = {
    "rlimits": {"takes more memory than it may": _take_memory, "writes a larger file than it may": _write_much},
    "no-new-privs": {"gains privileges": _gain_privileges},
    "seccomp": {
        "opens a socket": _open_socket,
        "makes a process": _make_process,
        "executes another program": _execute_program,
        "signals another process": _signal_others,
        "traces another process": _trace_others,
        "changes a file's mode": _change_mode,
        "sets limits": _set_limits,
        "calls what no program needs": _call_kernel,
    },
    "landlock": {
        "reads our code": _read_our_code,
        "reads others' files": _read_others,
        "writes elsewhere": _write_others,
    },
    "bubblewrap": {"reads others' files": _read_others, "writes elsewhere": _write_others},
}


def got_through(attack: Attack) -> bool:
    """Whether an attack, tried in this process, is not refused."""
    try:
        attack()
    except (OSError, ValueError):  # setrlimit raises ValueError
        return False
    return True


def _any(*attempts: Attack) -> None:
    """Make all attempts; raise PermissionError if all are refused."""
    if not any(map(got_through, attempts)):
        raise PermissionError


def _make_file(folder: str) -> None:
    file = Path(folder, f".merge-search-{os.getpid()}")
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with contextlib.suppress(OSError):
        file.unlink()
