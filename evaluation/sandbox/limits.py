"""What a process of the sandbox gives up before it runs anything foreign: resources, descriptors, environment."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

_LIBC = ctypes.CDLL(None, use_errno=True)

_MEMORY_BYTES = 1 << 30
_FILE_BYTES = 8 << 20
_OPEN_FILES = 64


def cpu_limit_seconds(budget_seconds: float) -> int:
    """Return the processor time after which the kernel ends a run with SIGXCPU, whatever the clock of a check says."""
    return math.ceil(budget_seconds) + 1


def become_zygote() -> None:
    """End with the thread that started this process, be readable by none, and inherit what runs leave behind."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _lower(resource.RLIMIT_CORE, 0)


def detach(zygote: int, kept: tuple[int, ...]) -> None:
    """Leave everything of the zygote behind but some descriptors, and end when it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    first = 3
    for descriptor in (*sorted(kept), 1 << 16):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.environ.clear()


def forbid_new_privileges() -> None:
    """Set no-new-privs, for good; seccomp and Landlock need it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def restrict(budget_seconds: float) -> None:
    """Bound memory, processor time, files and descriptors; limits are only ever lowered."""
    forbid_new_privileges()
    _lower(resource.RLIMIT_AS, _MEMORY_BYTES)
    # At the soft limit comes SIGXCPU, which nothing else sends; one second on comes SIGKILL, for who ignores it.
    _lower(resource.RLIMIT_CPU, cpu_limit_seconds(budget_seconds), cpu_limit_seconds(budget_seconds) + 1)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        _lower(none, 0)


def _prctl(option: int, argument: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, the hard one to the same number if none is given, and neither above what it was."""
    _, highest = resource.getrlimit(kind)
    limits = [limit if highest == resource.RLIM_INFINITY else min(limit, highest) for limit in (soft, hard or soft)]
    resource.setrlimit(kind, (limits[0], limits[1]))
