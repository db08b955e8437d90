"""One warm pair of zygotes, and one run of a completion in it.

Guarantees: a pass comes from the checker alone. Time is counted without the time that the processes waited for a processor, so that a
loaded machine makes no timeouts.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.sandbox import codec
from evaluation.sandbox.verdict import Status, Verdict

if TYPE_CHECKING:
    from evaluation.problems import Problem

_ZYGOTE = Path(__file__).with_name("zygote.py")
_REQUEST_BYTES = 64 << 20
# Beyond this many times the limit on the clock, a run that got no processor is given up and repeated.
_PATIENCE = 10
_POLL_SECONDS = 0.05


class PairError(Exception):
    """The pair's processes failed, not the completion; the run can be repeated in a new pair."""


class Starved(PairError):
    """The run did not get enough processor time to tell."""


class Pair:
    """A solution zygote and a checker zygote with a scratch folder; used by one thread, the one that made it.

    The zygotes end with that thread: Linux counts a process's parent by the thread that started it.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._scratch = tempfile.mkdtemp(prefix="merge-search-")
        self._solution = _Role("solution", self._scratch, timeout_seconds)
        self._checker = _Role("checker", self._scratch, timeout_seconds)
        self.has_landlock = bool(self._solution.hello()["landlock"])
        self._checker.hello()

    def run(self, problem: Problem, completion: str) -> Verdict:
        """Score one completion. Raises PairError if the processes fail; the pair is then to be closed."""
        try:
            return self._run(problem, completion)
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise PairError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End both processes and remove the scratch folder."""
        self._solution.close()
        self._checker.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _run(self, problem: Problem, completion: str) -> Verdict:
        started = time.monotonic()
        for_solution, for_checker = socket.socketpair()
        with for_solution, for_checker:
            program = {"program": problem.prompt + completion, "entry_point": problem.entry_point}
            self._solution.start(program, for_solution)
            tests = {"prompt": problem.prompt, "test": problem.test, "entry_point": problem.entry_point}
            self._checker.start(tests, for_checker)
        in_time = self._wait(started)
        if not in_time:
            self._checker.kill()
        verdict = self._checker.ended()["verdict"]
        self._solution.kill()
        ended = int(self._solution.ended()["ended"])
        if not in_time:
            return Verdict(False, "timeout", f"more than {self._timeout:g} s")
        return _verdict(verdict, ended, self._timeout)

    def _wait(self, started: float) -> bool:
        """Wait until the checker has ended or the time is up; return which. Raises Starved."""
        wait = self._timeout
        while not self._checker.readable(wait):
            wall = time.monotonic() - started
            effective = wall - self._solution.run_delay() - self._checker.run_delay()
            if effective >= self._timeout:
                return False
            if wall > _PATIENCE * self._timeout:
                self._checker.kill()
                self._checker.ended()
                self._solution.kill()
                self._solution.ended()
                raise Starved(f"only {effective:.1f} s of processor time in {wall:.0f} s")
            wait = max(self._timeout - effective, _POLL_SECONDS)
        return True


def _verdict(verdict: Mapping[str, str] | None, ended: int, timeout: float) -> Verdict:
    if verdict is None:
        raise PairError("the checker ended without a verdict")
    status, detail = verdict["status"], verdict["detail"]
    if status == "passed":
        return Verdict(True, "passed", "")
    if status == "failed":
        return Verdict(False, "failed", detail)
    # The solution's process ended under a call: how it ended is the detail.
    if ended == -signal.SIGXCPU or ended == -signal.SIGKILL:
        return Verdict(False, "timeout", f"more than {math.ceil(timeout) + 1} s of processor time")
    kind: Status = "killed" if ended < 0 else "failed"
    return Verdict(False, kind, signal.Signals(-ended).name if ended < 0 else f"{detail} (exit code {ended})")


class _Role:
    """The parent's end of one zygote."""

    def __init__(self, role: str, scratch: str, seconds: float) -> None:
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", "-B", str(_ZYGOTE), role, str(theirs.fileno())]
        command += [str(os.getpid()), scratch, str(seconds)]
        environment = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "PATH": os.defpath}
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._child = 0

    def hello(self) -> dict[str, Any]:
        """Return what the zygote says of itself once it is ready."""
        message: dict[str, Any] = codec.receive(self._control)
        return message

    def start(self, request: dict[str, str], connection: socket.socket) -> None:
        """Begin a run over one end of a connection."""
        socket.send_fds(self._control, [b"R"], [connection.fileno()])
        codec.send(self._control, request, _REQUEST_BYTES)
        self._child = int(codec.receive(self._control)["pid"])

    def readable(self, seconds: float) -> bool:
        """Wait until the zygote says something, or some seconds; return whether it does."""
        ready, _, _ = select.select([self._control], [], [], seconds)
        return bool(ready)

    def kill(self) -> None:
        """End the run; does nothing if it has ended."""
        self._control.sendall(b"K")

    def ended(self) -> dict[str, Any]:
        """Wait for the end of the run and return how it ended."""
        message: dict[str, Any] = codec.receive(self._control)
        return message

    def run_delay(self) -> float:
        """Return the seconds that the run's process was ready and had to wait for a processor; 0 where Linux does not tell."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            return (
                sum(
                    int((task / "schedstat").read_text().split()[1])
                    for task in Path(f"/proc/{self._child}/task").iterdir()
                )
                / 1e9
            )
        return 0.0

    def close(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
