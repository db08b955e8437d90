"""A warm, single-threaded process that forks one run at a time: of the solution's side, or of the checker's.

Guarantees: a run's process is dead and reaped, and its files are gone, before its end is reported; the zygote ends, and
its run with it, when the process that started it is gone. It imports the standard library alone.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn, cast

from evaluation.sandbox import limits
from evaluation.sandbox.checker import HARD_WALL_BUDGETS, Checker, CheckerJob
from evaluation.sandbox.confinement import Confinement
from evaluation.sandbox.control import Control, ControlClosed
from evaluation.sandbox.scratch import Scratch
from evaluation.sandbox.solution import SolutionJob, serve

_TICK_SECONDS = 0.1  # between looks at the scratch folder
_ORPHAN_SECONDS = 1.0  # between looks at the parent, whose end of the socket a fork of it may hold open
_GRACE_SECONDS = 5.0

# What programs import most: loaded once here, so that no run pays for it.
_WARM = (
    "ast bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "itertools math numbers operator queue random re statistics string struct textwrap threading time typing "
    "unicodedata"
)


class Zygote:
    """The loop of one side of a pair."""

    def __init__(self, role: str, control: Control, budget_seconds: float) -> None:
        self._role = role
        self._control = control
        self._budget_seconds = budget_seconds
        self._parent = os.getppid()
        self._scratch = Scratch() if role == "solution" else None
        self._confinement = Confinement(self._scratch.path if self._scratch else None, budget_seconds)
        self._wakeup, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(self._wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def loop(self) -> None:
        """Serve runs until the parent is gone."""
        try:
            isolation = self._confinement.isolation
            layers = [isolation.active, isolation.missing]
            self._control.send({"isolation": layers, "scratch": str(self._scratch.path) if self._scratch else ""})
            while True:
                self._wait(None)
                message, connection = self._control.receive()
                if connection is not None:
                    self._control.send(self._run(message, connection))
        except ControlClosed:
            pass
        finally:
            if self._scratch is not None:
                self._scratch.remove()

    def _run(self, job: dict[str, object], connection: int) -> dict[str, object]:
        """Fork a run, see it to its end, and return what is to be told of it."""
        report, report_end = os.pipe()
        zygote = os.getpid()
        process = os.fork()
        if process == 0:
            self._become_run(zygote, job, connection, report_end)
        os.close(connection)
        os.close(report_end)
        try:
            self._watch(process)
        finally:
            status, usage = self._end(process)
        with os.fdopen(report, "rb") as file:
            verdict = json.loads(file.readline() or b"null") if self._role == "checker" else None
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return {"exit": os.waitstatus_to_exitcode(status), "cpu_seconds": cpu_seconds, "verdict": verdict}

    def _become_run(self, zygote: int, job: dict[str, object], connection: int, report: int) -> NoReturn:
        """Turn this fork into the run."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            kept = (connection, *self._confinement.descriptors)
            if self._role == "solution":
                limits.detach(zygote, kept)
                serve(SolutionJob(**cast("dict[str, str]", job)), connection, self._confinement.apply)
            limits.detach(zygote, (report, *kept))
            Checker(CheckerJob(**cast("dict[str, str]", job)), connection, report, self._budget_seconds).run(
                self._confinement.apply
            )
        finally:
            os._exit(1)

    def _watch(self, process: int) -> None:
        """Return when the run has ended, must end, or is to be stopped. Raises ControlClosed."""
        deadline = time.monotonic() + HARD_WALL_BUDGETS * self._budget_seconds + _GRACE_SECONDS
        while time.monotonic() < deadline and not (self._scratch and self._scratch.is_full()):
            told, ended = self._wait(_TICK_SECONDS)
            if ended and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            if told:
                self._control.receive()  # the one thing said during a run: stop
                return

    def _wait(self, seconds: float | None) -> tuple[bool, bool]:
        """Wait for the parent or a child. Return whether the parent speaks, whether a child has ended."""
        while True:
            pause = _ORPHAN_SECONDS if seconds is None else seconds
            control = self._control.fileno()
            ready, _, _ = select.select([control, self._wakeup], [], [], pause)
            if os.getppid() != self._parent:
                raise ControlClosed
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            if control in ready or seconds is not None:
                return control in ready, self._wakeup in ready

    def _end(self, process: int) -> tuple[int, resource.struct_rusage]:
        """Kill and reap the run, and remove what it left."""
        os.kill(process, signal.SIGKILL)
        _, status, usage = os.wait4(process, 0)
        if not self._confinement.stops_forks:
            _kill_orphans()
        if self._scratch is not None:
            self._scratch.empty()
        return status, usage


def main(arguments: list[str]) -> None:
    """Start a zygote: ``solution`` or ``checker``, the number of the control socket, the budget in seconds."""
    role, descriptor, budget_seconds = arguments
    control = Control(socket.socket(fileno=int(descriptor)))
    os.set_inheritable(int(descriptor), False)
    for name in _WARM.split():
        __import__(name)
    limits.become_zygote()
    sys.argv = [""]
    zygote = Zygote(role, control, float(budget_seconds))
    gc.collect()
    gc.freeze()  # a fork's collector then leaves our pages shared
    zygote.loop()


def _kill_orphans() -> None:
    """Kill and reap whatever a run without seccomp has left; as their subreaper we are their parent now."""
    while True:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if not children:
            return
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)
