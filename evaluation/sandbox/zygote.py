"""A warm, single-threaded process that forks the runs of one side of a check, one at a time.

Guarantees: a run's process is dead and reaped, and its files are gone, before the next run gets its job. The next run
is forked in the meantime, so that no check waits for a fork. The zygote and its runs end when the process that started
it is gone. It imports the standard library, and numpy when a program names it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias, cast

from evaluation.sandbox import limits
from evaluation.sandbox.checker import Checker
from evaluation.sandbox.clock import Clock, judge_time, measures_delay, number_in
from evaluation.sandbox.confinement import Confinement
from evaluation.sandbox.control import Control, ControlClosed
from evaluation.sandbox.control_messages import CheckStatus, Ended, Judged, Run
from evaluation.sandbox.scratch import empty, is_full
from evaluation.sandbox.solution import serve

Role: TypeAlias = Literal["solution", "checker"]

_TICK_SECONDS = 0.1  # between looks at the scratch folder
_BUSY_SECONDS = 0.001  # before the next run is forked: until then, the current run needs the cores
_LEAST_SECONDS = 0.005  # between looks at the clock
_ORPHAN_SECONDS = 1.0  # between looks at the parent: a fork of it may hold its end of the socket open
_GRACE_SECONDS = 5.0

# The modules that programs import most, loaded once so that no run pays for them.
_WARM = (
    "ast bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "itertools math numbers operator queue random re statistics string struct textwrap threading time typing "
    "unicodedata"
)


@dataclass(frozen=True, slots=True)
class ZygoteSettings:
    """The arguments of a zygote.

    Attributes:
        role: the side of the pair.
        control: the descriptor of the control connection.
        processes: the descriptor of the system's /proc, or -1.
        scratch: the folder that a run may write to; empty for the checker, whose runs may write to none.
        numpy: the folders of numpy.
        bubblewrap: the version of the bubblewrap around the zygote; empty if there is none.
        without_bubblewrap: why there is none.
    """

    role: Role
    control: int
    processes: int
    scratch: str
    numpy: tuple[str, ...]
    bubblewrap: str
    without_bubblewrap: str


@dataclass(frozen=True, slots=True)
class _Fork:
    """A fork: its process, the connection that brings its job, and the descriptor of its report."""

    process: int
    control: Control
    report: int


class Zygote:
    """The loop of one side of a pair."""

    def __init__(self, settings: ZygoteSettings) -> None:
        self._settings = settings
        self._control = Control(socket.socket(fileno=settings.control))
        self._parent = os.getppid()
        self._scratch = Path(settings.scratch) if settings.scratch else None
        self._confinement = Confinement(
            self._scratch,
            numpy=[Path(folder) for folder in settings.numpy],
            bubblewrap=settings.bubblewrap,
            without_bubblewrap=settings.without_bubblewrap,
            delay_is_measured=measures_delay(settings.processes),
        )
        self._next: _Fork | None = None  # a fork that waits for its job
        self._wakeup, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(self._wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def loop(self) -> None:
        """Serve runs until the parent is gone."""
        try:
            self._control.send(self._confinement.examine())
            while True:
                self._next = self._next or self._fork()
                self._wait(None)
                message, connection = self._control.receive()
                if isinstance(message, Run) and connection is not None:
                    self._run(message, connection)
        except ControlClosed:
            pass
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)  # bubblewrap's is a mount, and goes with it

    def _run(self, order: Run, connection: int) -> None:
        """Give the waiting fork its job, watch the run until it ends, and report the result."""
        run, self._next = self._next or self._fork(), None
        texts = order.program, order.test, order.entry_point
        if any("numpy" in text for text in texts) and self._load_numpy():
            self._end(run)  # it was forked before numpy was loaded
            run = self._fork()
        run.control.send(order, connection)
        os.close(connection)
        judged = None
        try:
            judged = self._watch(run, order)
            if judged is not None:  # ending the run cannot change the verdict, so send it first
                self._control.send(judged)
        finally:
            status, usage = self._end(run)
        if judged is None:
            self._control.send(Ended(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime))

    def _fork(self) -> _Fork:
        """Return a new fork that waits for a job."""
        report, report_end = os.pipe()
        ours, theirs = socket.socketpair()
        zygote = os.getpid()
        process = os.fork()
        if process == 0:
            self._become_run(zygote, theirs, report_end)
        theirs.close()
        os.close(report_end)
        return _Fork(process, Control(ours), report)

    def _become_run(self, zygote: int, jobs: socket.socket, report: int) -> NoReturn:
        """Turn this fork into a run."""
        try:
            signal.set_wakeup_fd(-1)
            for caught in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(caught, signal.SIG_DFL)
            number = number_in(self._settings.processes)
            kept = [jobs.fileno(), *self._confinement.descriptors]
            limits.detach(zygote, kept if self._settings.role == "solution" else [report, *kept])
            order, connection = Control(jobs).receive()
            jobs.close()
            assert isinstance(order, Run)
            assert connection is not None
            confine = partial(self._confinement.apply, order.budget_seconds)
            if self._settings.role == "solution":
                serve(order, connection, number, confine)
            Checker(order, connection, report).run(number, confine)
        finally:
            os._exit(1)

    def _watch(self, run: _Fork, order: Run) -> Judged | None:
        """Wait until the run has ended, must end, or is stopped; return its verdict if there is one.

        Raises ControlClosed.
        """
        deadline = time.monotonic() + order.hard_wall_seconds + _GRACE_SECONDS
        watched = [run.report] if self._settings.role == "checker" else []
        clock: Clock | None = None
        pause, said = _BUSY_SECONDS, b""
        while time.monotonic() < deadline and not (self._scratch and is_full(self._scratch)):
            ready = self._wait(pause, watched)
            self._next = self._next or self._fork()
            *lines, said = (said + (os.read(run.report, 1 << 16) if run.report in ready else b"")).split(b"\n")
            for first, second in map(json.loads, lines):
                if isinstance(first, str):
                    verdict = Judged(cast("CheckStatus", first), second)
                    # A pass may come too late: the zygote itself may have waited for a core.
                    judged = judge_time(clock, order) if clock and verdict.status == "passed" else None
                    return judged if isinstance(judged, Judged) else verdict
                clock = Clock(self._settings.processes, (first, second))
            if self._wakeup in ready and os.waitid(os.P_PID, run.process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return None
            if self._control.fileno() in ready:
                self._control.receive()  # the only message during a run is Stop
                return None
            judged = judge_time(clock, order) if clock else _TICK_SECONDS
            if isinstance(judged, Judged):
                return judged
            pause = min(_TICK_SECONDS, max(_LEAST_SECONDS, judged))
        return None

    def _wait(self, seconds: float | None, watched: Sequence[int] = ()) -> list[int]:
        """Wait for the parent, a child or a descriptor; return the descriptors that are ready."""
        while True:
            pause = _ORPHAN_SECONDS if seconds is None else seconds
            ready, _, _ = select.select([self._control.fileno(), self._wakeup, *watched], [], [], pause)
            if os.getppid() != self._parent:
                raise ControlClosed
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            if self._control.fileno() in ready or seconds is not None:
                return ready

    def _end(self, run: _Fork) -> tuple[int, resource.struct_rusage]:
        """Kill and reap a run, and remove its files."""
        os.kill(run.process, signal.SIGKILL)
        _, status, usage = os.wait4(run.process, 0)
        run.control.close()
        os.close(run.report)
        if self._scratch is not None:
            empty(self._scratch)
        return status, usage

    def _load_numpy(self) -> bool:
        """Import numpy, and no other package, for every later fork; return False if numpy is loaded or missing."""
        if "numpy" in sys.modules or not self._settings.numpy:
            return False
        spec = PathFinder.find_spec("numpy", [str(Path(self._settings.numpy[0]).parent)])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["numpy"] = module_from_spec(spec)
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded; threads would not survive a fork
        spec.loader.exec_module(module)
        os.environ.clear()
        gc.freeze()
        return True


def main(settings: ZygoteSettings) -> None:
    """Run a zygote until the parent is gone."""
    for descriptor in (settings.control, settings.processes):
        with contextlib.suppress(OSError):  # there may be no /proc
            os.set_inheritable(descriptor, False)
    for name in _WARM.split():
        __import__(name)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its parent, and removes its scratch folder undisturbed
    limits.become_zygote()
    sys.argv = [""]
    zygote = Zygote(settings)
    gc.collect()
    gc.freeze()  # so that garbage collection in a fork does not copy our pages
    zygote.loop()
