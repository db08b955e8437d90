"""The system-call filter (seccomp, classic BPF): it allows the calls that `syscalls` lists; all others fail with EPERM.

Guarantees: calls of another architecture, or of x86's x32 ABI, end the process. clone makes threads only, clone3 fails
with ENOSYS (so that libc falls back to clone), prlimit64 only reads. Supports x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from evaluation.sandbox.syscalls import ALLOWED, GUARDED

_LIBC = ctypes.CDLL(None, use_errno=True)

Instruction: TypeAlias = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DENY, _NO_SUCH_CALL = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080  # every CLONE_NEW* flag
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)  # descriptors, flags and locks, but no owners, signals or leases
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # for isatty, window size and close-on-exec


def build(machine: str) -> bytes:
    """Return the filter for a machine, by its name in ``os.uname``. Raises KeyError for an unknown machine."""
    column, architecture = MACHINES[machine]
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for name, numbers in GUARDED.items():
        if (number := numbers[column]) is not None:
            guard = list(_guard(name))
            code += [(_EQUAL, 0, len(guard), number), *guard]
    allowed = sorted(number for numbers in ALLOWED.values() if (number := numbers[column]) is not None)
    code += _search(_borders(allowed), _DENY)
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(program: bytes) -> None:
    """Put this process under a filter, for good; it needs no-new-privs. Raises OSError."""
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
    if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _borders(allowed: Sequence[int]) -> list[tuple[int, int]]:
    """Return the numbers, in order, at which the result changes, each with the new result; lower ones are denied."""
    known = frozenset(allowed)
    starts = [(number, _ALLOW) for number in allowed if number - 1 not in known]
    ends = [(number + 1, _DENY) for number in allowed if number + 1 not in known]
    return sorted(starts + ends)


def _search(borders: Sequence[tuple[int, int]], below: int) -> list[Instruction]:
    """Return a binary search among borders, because the kernel tries a filter with every call when it is installed."""
    if not borders:
        return [(_RETURN, 0, 0, below)]
    middle = len(borders) // 2
    number, outcome = borders[middle]
    lower, upper = _search(borders[:middle], below), _search(borders[middle + 1 :], outcome)
    # A conditional jump reaches 255 instructions, a plain jump any number.
    return [(_AT_LEAST, 0, 1, number), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _guard(name: str) -> Iterator[Instruction]:
    """Yield the instructions that decide a call by its arguments; they always return."""
    if name == "clone3":
        yield _RETURN, 0, 0, _NO_SUCH_CALL
        return
    if name == "clone":
        yield from _load(0)
        yield _ANY_BIT, 0, 1, _CLONE_NEW
        yield _RETURN, 0, 0, _DENY
        yield _ANY_BIT, 0, 1, _CLONE_THREAD
        yield _RETURN, 0, 0, _ALLOW
    elif name == "prlimit64":  # (pid, resource, new, old): only for this process, without a new limit
        for argument, half in ((0, 0), (2, 0), (2, 1)):
            yield from _load(argument, half)
            yield _EQUAL, 1, 0, 0
            yield _RETURN, 0, 0, _DENY
        yield _RETURN, 0, 0, _ALLOW
    else:
        yield from _load(1)
        yield from _one_of(_FCNTL if name == "fcntl" else _IOCTL)
    yield _RETURN, 0, 0, _DENY


def _load(argument: int, half: int = 0) -> Iterator[Instruction]:
    # The lower half of a 64-bit argument comes first on both machines.
    yield _LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4 * half


def _one_of(values: Sequence[int]) -> Iterator[Instruction]:
    for value in values:
        yield _EQUAL, 0, 1, value
        yield _RETURN, 0, 0, _ALLOW
