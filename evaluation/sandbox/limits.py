"""What a child gives up before it runs anything that is not ours: resources, signals, descriptors, environment."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_LIBC = ctypes.CDLL(None, use_errno=True)

MEMORY_BYTES = 1 << 30
FILE_BYTES = 8 << 20
OPEN_FILES = 64


def prctl(option: int, argument: int) -> None:
    """Call prctl(2). Raises OSError."""
    if _LIBC.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def die_with(parent: int) -> None:
    """End this process when its parent ends; at once if that has happened already."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def drop_privileges() -> None:
    """Forbid gaining privileges by exec, and reading this process's memory by others."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)


def limit_resources(cpu_seconds: float) -> None:
    """Bound memory, processor time, files and descriptors; limits are only ever lowered."""
    cpu = math.ceil(cpu_seconds) + 1
    _lower(resource.RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES)
    _lower(resource.RLIMIT_CPU, cpu, cpu + 1)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0, 0)


def _lower(kind: int, soft: int, hard: int) -> None:
    _, allowed = resource.getrlimit(kind)
    if allowed != resource.RLIM_INFINITY:
        hard = min(hard, allowed)
    resource.setrlimit(kind, (min(soft, hard), hard))


def keep_only(descriptor: int) -> None:
    """Point 0, 1 and 2 at /dev/null and close every other descriptor but one."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 1 << 16)
