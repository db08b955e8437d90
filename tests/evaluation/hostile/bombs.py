"""Completions that use up time, memory or whatever else there is: they must be ended, or held within bounds."""

from __future__ import annotations

from tests.evaluation.hostile.writing import body, module

NOT_A_PASS = ("failed", "killed", "timeout")

HANGS = {
    "an endless loop": body("while True: pass"),
    "an endless loop that catches everything": body(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "an endless loop at import": module("while True: pass"),
    "a sleep": body("import time\ntime.sleep(60)"),
    "a wait for a lock": body("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"),
    "a computation in C": body("return 7 ** 7 ** 11"),
    "a catastrophic regular expression": body("import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    "signals ignored": body(
        """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: pass
        """
    ),
    "everything closed": body("import os\nos.closerange(0, 256)\nwhile True: pass"),
    "threads that spin": body(
        """
        import threading
        def spin():
            while True: pass
        for _ in range(8): threading.Thread(target=spin, daemon=True).start()
        while True: pass
        """
    ),
    "a stop of itself": body("import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)"),
    "an answer that never ends": body(
        r"""
        import os
        for fd in range(3, 64):
            try:
                while True: os.write(fd, b'\0' * 4096)
            except OSError: pass
        """
    ),
}

BOMBS = {
    "2 GiB": (body("block = bytearray(2 << 30)\nreturn a + b"), ("failed",)),
    "2 GiB that are given up": (
        body("try: bytearray(2 << 30)\nexcept MemoryError: pass\nreturn a + b"),
        ("passed",),
    ),
    "memory that grows": (
        body(
            """
            held = []
            try:
                while True: held.append(bytearray(64 << 20))
            except MemoryError: held = []
            return a + b
            """
        ),
        ("passed", "timeout"),
    ),
    "recursion without a limit": (
        body("import sys\nsys.setrecursionlimit(10 ** 8)\ndef deep(): return deep()\nreturn deep()"),
        NOT_A_PASS,
    ),
    "400 threads": (
        body(
            """
            import threading
            event, threads = threading.Event(), []
            try:
                for _ in range(400):
                    threads.append(threading.Thread(target=event.wait)); threads[-1].start()
            except RuntimeError: threads.pop()
            event.set()
            for thread in threads: thread.join()
            return a + b
            """
        ),
        ("passed", "timeout"),
    ),
    "forks": (
        body("import os\ntry:\n    while True: os.fork()\nexcept PermissionError: return a + b"),
        ("passed",),
    ),
    "a file of 64 MB": (
        body("try: open('large', 'wb').write(bytes(64 << 20))\nexcept OSError: return a + b"),
        ("passed",),
    ),
    "a million files": (
        body("for i in range(10**6): open(str(i), 'w').write('x' * 100)\nreturn a + b"),
        NOT_A_PASS,
    ),
    "200 MB of output": (body("for _ in range(200): print('x' * 1_000_000)\nreturn a + b"), ("passed", "timeout")),
    "a read of nowhere": (body("import ctypes\nctypes.string_at(0)"), ("killed",)),
    "four threads that are left": (
        body(
            """
            import threading
            def spin():
                while True: pass
            for _ in range(4): threading.Thread(target=spin, daemon=True).start()
            return a + b
            """
        ),
        ("passed", "timeout"),
    ),
}
