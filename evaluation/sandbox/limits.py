"""Takes resources, descriptors and the environment from a process of the sandbox before it runs foreign code."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_LIBC = ctypes.CDLL(None, use_errno=True)

MEMORY_BYTES = 1 << 30
FILE_BYTES = 8 << 20
_OPEN_FILES = 64


def cpu_limit_seconds(budget_seconds: float) -> int:
    """Return the processor time after which the kernel ends a run with SIGXCPU, whatever the check's clock says."""
    return math.ceil(budget_seconds) + 1


def become_zygote() -> None:
    """Make this process unreadable, and clear the environment."""
    _prctl(_PR_SET_DUMPABLE, 0)
    os.environ.clear()
    _lower(resource.RLIMIT_CORE, 0)


def detach(zygote: int, kept: Sequence[int]) -> None:
    """Leave the zygote's session, close all descriptors except those to keep, and end when the zygote ends."""
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


def forbid_new_privileges() -> None:
    """Set no-new-privs, for good; seccomp and Landlock need it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def restrict(budget_seconds: float) -> None:
    """Bound memory, processor time, files and descriptors; limits are only ever lowered."""
    forbid_new_privileges()
    _lower(resource.RLIMIT_AS, MEMORY_BYTES)
    # The soft limit sends SIGXCPU, which nothing else sends; SIGKILL follows a second later if that is ignored.
    _lower(resource.RLIMIT_CPU, cpu_limit_seconds(budget_seconds), cpu_limit_seconds(budget_seconds) + 1)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        _lower(none, 0)


def _prctl(option: int, argument: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a soft and a hard limit (by default to the same value); never raise either."""
    _, highest = resource.getrlimit(kind)
    limits = [limit if highest == resource.RLIM_INFINITY else min(limit, highest) for limit in (soft, hard or soft)]
    resource.setrlimit(kind, (limits[0], limits[1]))
