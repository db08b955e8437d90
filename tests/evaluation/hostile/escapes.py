"""Completions that add rightly if and only if all that they try, beyond their process, is refused."""

from __future__ import annotations

from tests.evaluation.hostile.writing import body

_REFUSED = """
def refused(call, *arguments):
    try:
        call(*arguments)
    except (OSError, ValueError):
        return
    raise SystemExit("not refused: %r%r" % (call, arguments))

"""

ESCAPES = {
    "a daemon": """
        import os
        refused(os.fork); refused(os.forkpty)
        import ctypes
        assert ctypes.CDLL(None).daemon(0, 0) == -1, "daemon"
    """,
    "subprocesses": """
        import os, subprocess, multiprocessing
        refused(subprocess.run, ["true"])
        refused(subprocess.Popen, "true", 0, None, None, None, None, None, True, True)
        refused(os.posix_spawn, "/bin/true", ["true"], {})
        assert os.system("true") != 0, "system"
        refused(os.popen, "true")
        refused(multiprocessing.Process(target=print).start)
    """,
    "another program": """
        import os, sys
        refused(os.execv, "/bin/true", ["true"])
        refused(os.execv, sys.executable or "/usr/bin/python3", ["python", "-c", ""])
    """,
    "files outside": """
        import os
        places = ("/", "/tmp", "/etc", "/usr", "/usr/lib", "/var/tmp", "/dev/shm", "/dev", "/root", "/home", "..")
        for place in (*places, os.path.dirname(os.__file__), os.path.dirname(os.__file__) + "/site-packages"):
            refused(open, place + "/escaped", "w")
            refused(os.open, place + "/escaped", os.O_CREAT | os.O_RDWR)
            refused(os.mkdir, place + "/escaped")
        refused(os.open, "/tmp", os.O_TMPFILE | os.O_RDWR)
    """,
    "files that are changed": """
        import os
        refused(open, os.__file__, "a")
        refused(os.chmod, os.__file__, 0o777)
        refused(os.chown, os.__file__, 0, 0)
        refused(os.truncate, os.__file__, 0)
        refused(os.rename, os.__file__, os.__file__ + "x")
        refused(os.unlink, os.__file__)
        refused(os.utime, os.__file__)
        refused(os.setxattr, os.__file__, "user.x", b"x")
    """,
    "links": """
        import os
        refused(os.symlink, "/etc", "linked")
        refused(os.symlink, "/etc", "/tmp/escaped")
        refused(os.link, os.__file__, "linked")
        refused(os.mkfifo, "fifo")
        refused(os.mknod, "device")
    """,
    "sockets of every family": """
        import socket
        for family in range(0, 46):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                refused(socket.socket, family, kind)
        refused(socket.socketpair)
        refused(socket.create_connection, ("127.0.0.1", 22), 1)
        refused(socket.getaddrinfo, "localhost", 80)
    """,
    "signals to others": """
        import os, signal, threading
        for target in (os.getppid(), 1, 2, -1, 0, os.getpid()):
            for number in (0, signal.SIGTERM, signal.SIGKILL): refused(os.kill, target, number)
        refused(os.killpg, os.getppid(), signal.SIGKILL)
        refused(signal.pthread_kill, threading.get_ident(), 0)
        refused(os.pidfd_open, os.getppid())
        refused(os.setpriority, 0, 0, 5)
    """,
    "processes read": """
        import ctypes, os
        for process in ("self", "1", str(os.getppid()), str(os.getpid()), "thread-self"):
            for what in ("mem", "environ", "fd", "maps", "cmdline", "status", "root"):
                refused(os.open, "/proc/%s/%s" % (process, what), os.O_RDONLY)
        refused(os.listdir, "/proc")
        libc = ctypes.CDLL(None, use_errno=True)
        for request in (0, 16, 0x4206): assert libc.ptrace(request, os.getppid(), 0, 0) == -1, request
    """,
    "secrets of the environment": """
        import ctypes, os
        assert dict(os.environ) == {}, "os.environ"
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        for name in (b"SECRET", b"PATH", b"HOME", b"HF_TOKEN", b"PYTHONPATH"):
            assert libc.getenv(name) is None, name
        refused(open, "/proc/self/environ")
    """,
    "secrets on the disk": """
        import glob, os, sys
        for place in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/root/.ssh/id_rsa", SECRET):
            refused(open, place)
        for place in ("/root/.cache/huggingface/token", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/tty"):
            refused(open, place)
        assert not glob.glob("/root/*") and not glob.glob("/home/*"), "homes"
    """,
    "folders listed": """
        import os
        for place in ("/root", "/home", "/etc/ssh", "/work", "/var", "/tmp", "/sys", "/run", os.path.dirname(SECRET)):
            refused(os.listdir, place)
    """,
    "limits that are raised": """
        import resource
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
            soft, hard = resource.getrlimit(limit)
            refused(resource.setrlimit, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            refused(resource.setrlimit, limit, (hard, hard))
            refused(resource.prlimit, 1, limit, (1, 1))
            assert hard != resource.RLIM_INFINITY, "unlimited"
    """,
    "raw system calls": """
        import ctypes, errno, platform
        libc = ctypes.CDLL(None, use_errno=True)
        x86_64 = (272, 165, 161, 321, 250, 425, 323, 298, 101, 434, 62, 310, 319, 41, 42, 157, 56, 58, 59, 135, 141,
                  317, 57, 155, 166, 167, 169, 175, 176, 246, 248, 249, 304, 308, 312, 322, 428, 429, 430, 431, 432)
        aarch64 = (97, 40, 51, 280, 219, 425, 282, 241, 117, 434, 129, 270, 279, 198, 203, 167, 220, 92, 140, 277, 221)
        for number in {"x86_64": x86_64, "aarch64": aarch64}[platform.machine()]:
            assert libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0) == -1, number
            assert ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), number
    """,
    "namespaces": """
        import ctypes, platform
        libc = ctypes.CDLL(None, use_errno=True)
        clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
            assert libc.unshare(flag) == -1, flag
            assert libc.syscall(ctypes.c_long(clone), flag | 17, 0, 0, 0, 0) == -1, flag
    """,
}


def completion(tries: str) -> str:
    """Return a completion that makes attempts before it adds."""
    return "    return try_add(a, b)\n" + _REFUSED + f"def try_add(a, b):\n{body(tries)}    return a + b\n"
