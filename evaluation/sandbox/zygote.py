"""A warm, single-threaded process that forks once for each run: ``python -I -S -B zygote.py ROLE CONTROL_FD PARENT SCRATCH SECONDS``.

The role is ``solution`` or ``checker``. Over the control socket come requests, each with one end of the socket on which the two roles talk; back
go the child's pid, and at its end how it ended. The process ends with its parent, and its children with it.
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - isolated mode leaves it out

# Loaded once, so that runs need not: what completions import most.
import bisect  # noqa: E402, F401
import collections  # noqa: E402, F401
import copy  # noqa: E402, F401
import datetime  # noqa: E402, F401
import functools  # noqa: E402, F401
import hashlib  # noqa: E402, F401
import heapq  # noqa: E402, F401
import itertools  # noqa: E402, F401
import json  # noqa: E402
import math  # noqa: E402, F401
import operator  # noqa: E402, F401
import random  # noqa: E402, F401
import re  # noqa: E402, F401
import statistics  # noqa: E402, F401
import string  # noqa: E402, F401
import typing  # noqa: E402, F401
from typing import Any  # noqa: E402

import checker  # noqa: E402
import codec  # noqa: E402
import landlock  # noqa: E402
import limits  # noqa: E402
import solution  # noqa: E402

sys.path.pop(0)

_REQUEST_BYTES = 64 << 20


class Zygote:
    """Forks a child for each request and watches it to its end."""

    def __init__(self, role: str, control: socket.socket, scratch: str, seconds: float) -> None:
        self._role, self._control, self._scratch, self._seconds = role, control, scratch, seconds
        self._ruleset = landlock.make_ruleset(scratch) if role == "solution" else None
        self._child = 0
        self._pidfd = self._verdict = -1

    def run(self) -> None:
        """Serve requests until the control socket closes."""
        codec.send(self._control, {"landlock": self._ruleset is not None})
        while True:
            watched = [self._control] + ([self._pidfd] if self._child else [])
            readable, _, _ = select.select(watched, [], [])
            if self._pidfd in readable:
                self._finish()
            elif self._control in readable:
                self._serve()

    def _serve(self) -> None:
        # A descriptor comes with the first byte of a run request.
        mark, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        if not mark:
            self._kill()
            os._exit(0)
        if mark == b"K":
            if self._child:
                self._kill()
                self._finish()
            return
        request = codec.receive(self._control, _REQUEST_BYTES)
        self._start(request, descriptors[0])

    def _start(self, request: dict[str, Any], descriptor: int) -> None:
        self._verdict, write_end = os.pipe()
        zygote = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._in_child(request, socket.socket(fileno=descriptor), write_end, zygote)
        os.close(descriptor)
        os.close(write_end)
        self._pidfd = os.pidfd_open(self._child)
        codec.send(self._control, {"pid": self._child})

    def _in_child(self, request: dict[str, Any], connection: socket.socket, verdict: int, zygote: int) -> None:
        code = 1
        try:
            limits.die_with(zygote)
            os.setsid()
            self._control.close()
            os.close(self._verdict)
            if self._role == "solution":
                solution.isolate(connection, self._scratch, self._ruleset, self._seconds)
                solution.serve(connection, request)
            else:
                checker.isolate(connection, verdict, self._seconds)
                result = checker.check(connection, request)
                os.write(verdict, json.dumps(result).encode())
            code = 0
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = 0  # the checker has hung up: the run is over
        finally:
            os._exit(code)

    def _kill(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)

    def _finish(self) -> None:
        _, status = os.waitpid(self._child, 0)
        with os.fdopen(self._verdict, "rb") as pipe:
            verdict = pipe.read(1 << 16)
        os.close(self._pidfd)
        self._child = 0
        self._pidfd = self._verdict = -1
        if self._role == "solution":
            self._empty_scratch()
        code = os.waitstatus_to_exitcode(status)
        codec.send(self._control, {"ended": code, "verdict": json.loads(verdict) if verdict else None})

    def _empty_scratch(self) -> None:
        for entry in os.scandir(self._scratch):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)  # noqa: PTH108


def main() -> None:
    """Run one zygote, as told by the command line."""
    role, control, parent, scratch, seconds = sys.argv[1:]
    limits.die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    sys.set_int_max_str_digits(0)
    gc.collect()
    gc.freeze()
    Zygote(role, socket.socket(fileno=int(control)), scratch, float(seconds)).run()


if __name__ == "__main__":
    main()
