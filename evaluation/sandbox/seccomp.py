"""The system calls that a solution may not make (seccomp, classic BPF): processes, sockets, other processes, file modes, kernel doors.

Guarantees: where `install` returns true, the calls below fail with EPERM (clone3 with ENOSYS, so that threads still start through clone), and
calls of another architecture end the process. Tables for x86_64 and aarch64; elsewhere `install` returns false.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
_CLONE3 = 435  # newer calls have one number everywhere

# socket socketpair connect bind listen accept sendto/sendmsg on sockets of one's own need none; fork vfork execve execveat kill tkill
# ptrace process_vm_* mount umount2 pivot_root chroot unshare setns bpf keyctl add_key request_key perf_event_open memfd_create
# userfaultfd personality setpriority chmod* chown* utime* setxattr* mknod* link* symlink* shm* msg* sem* reboot and module calls
MACHINES = tuple(_AUDIT)

_DENIED = {
    "x86_64": (
        41, 42, 43, 49, 50, 53, 57, 58, 59, 62, 101, 129, 200, 310, 311, 155, 161, 165, 166, 272, 308, 321, 248, 249, 250,
        298, 319, 323, 135, 141, 144, 90, 91, 92, 93, 94, 132, 133, 188, 189, 190, 197, 198, 199, 235, 259, 260, 261, 265,
        266, 268, 280, 86, 88, 29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 169, 175, 176, 313, 246, 322, 288, 297, 303, 304,
    ),
    "aarch64": (
        198, 199, 200, 201, 202, 203, 242, 221, 281, 129, 130, 138, 240, 117, 270, 271, 39, 40, 41, 51, 97, 268, 280, 217,
        218, 219, 241, 279, 282, 92, 140, 118, 52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16, 33, 37, 36, 186, 187, 188, 189, 190,
        191, 192, 193, 194, 195, 196, 142, 105, 106, 273, 104, 264, 265,
    ),
}  # fmt: skip
# io_uring_setup/enter/register, pidfd_send_signal, pidfd_open, pidfd_getfd, fchmodat2, open_tree..fsmount, mount_setattr
_DENIED_EVERYWHERE = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 442, 452)


def program(machine: str) -> bytes:
    """Return the filter for a machine as BPF instructions."""
    deny, done = _ERRNO | errno.EPERM, _ALLOW
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        code += [(_GREATER_EQUAL, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    code += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number in (*_DENIED[machine], *_DENIED_EVERYWHERE):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, deny)]
    # clone makes threads only; prlimit64 is about this process only.
    code += [(_EQUAL, 0, 4, _CLONE[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _CLONE_THREAD)]
    code += [(_RETURN, 0, 0, done), (_RETURN, 0, 0, deny)]
    code += [(_EQUAL, 0, 3, _PRLIMIT64[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, 0)]
    code += [(_RETURN, 0, 0, deny), (_RETURN, 0, 0, done)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install() -> bool:
    """Install the filter in this process for good; it needs no-new-privileges. Returns whether that was possible."""
    machine = os.uname().machine
    if machine not in _DENIED:
        return False
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))

    class _Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    described = _Filter(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0) == 0)
