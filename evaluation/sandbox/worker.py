"""One worker of the pool: a pair of zygotes, and what their two reports of a run mean together.

Guarantees: a pass comes from the checker alone; what the solution's process is reported to have done only explains a
check that lost it. A broken pair is replaced and the program run again, so that no fault of ours becomes its score.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from evaluation.errors import EvaluationError
from evaluation.sandbox.checker import HARD_WALL_BUDGETS
from evaluation.sandbox.control import Control, ControlClosed
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.limits import cpu_limit_seconds
from evaluation.sandbox.verdict import Status, Verdict

if TYPE_CHECKING:
    from evaluation.problems import Problem

_ATTEMPTS = 3
_START_SECONDS = 60.0
_GRACE_SECONDS = 20.0

_BOOT = """
import sys
sys.path.append(sys.argv[1])
from evaluation.sandbox.zygote import main
sys.path.pop()
main(sys.argv[2:])
"""


class SandboxError(EvaluationError):
    """The sandbox cannot be started on this system."""


class _Undecided(Exception):
    """A run that says nothing of its program."""


class Worker:
    """A pair of zygotes, started when first needed. Belongs to one thread; `stop` alone may be called from others."""

    def __init__(self, budget_seconds: float) -> None:
        self._budget_seconds = budget_seconds
        self._pair: tuple[_Zygote, _Zygote] | None = None
        self._lock = threading.Lock()  # of the pair's coming and going, against `stop`
        self._stopped = False

    def start(self) -> Isolation:
        """Start the pair if there is none, and return its isolation. Raises SandboxError."""
        if self._pair is None:
            with self._lock:
                if self._stopped:
                    raise SandboxError("the sandbox has been closed")
                solution = _Zygote("solution", self._budget_seconds)
                try:
                    self._pair = solution, _Zygote("checker", self._budget_seconds)
                except BaseException:
                    solution.close()
                    raise
            try:
                for zygote in self._pair:
                    zygote.await_start()
            except BaseException:
                self.close()
                raise
        return self._pair[0].isolation

    def check(self, problem: Problem, completion: str) -> Verdict:
        """Run one program against its tests."""
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                self.start()
                return self._attempt(problem, completion)
            except (_Undecided, SandboxError, OSError) as error:
                reason = str(error) or type(error).__name__
                self.close()
        return Verdict("harness_error", f"undecided after {_ATTEMPTS} attempts: {reason}")

    def stop(self) -> None:
        """Make a check under way, and every later one, end at once with a harness error; `close` must follow."""
        with self._lock:
            self._stopped = True
            for zygote in self._pair or ():
                zygote.control.interrupt()

    def close(self) -> None:
        """End the pair."""
        with self._lock:
            pair, self._pair = self._pair, None
        for zygote in pair or ():
            zygote.close()

    def _attempt(self, problem: Problem, completion: str) -> Verdict:
        """Run one program once. Raises _Undecided."""
        assert self._pair is not None
        solution, checker = self._pair
        try:
            self._submit(problem, completion)
            checked = checker.end_of_run()
            solution.control.send({})
            solved = solution.end_of_run()
        except ControlClosed:
            raise _Undecided("a sandbox process has died") from None
        return _judge(checked, solved, cpu_limit_seconds(self._budget_seconds))

    def _submit(self, problem: Problem, completion: str) -> None:
        """Give each side its part, and one end each of a fresh connection. Raises ControlClosed."""
        assert self._pair is not None
        solution, checker = self._pair
        ends = socket.socketpair()
        try:
            program = f"{problem.prompt}{completion}\n"
            solution.control.send({"program": program, "entry_point": problem.entry_point}, ends[0].fileno())
            job = {"prompt": problem.prompt, "test": problem.test, "entry_point": problem.entry_point}
            checker.control.send(cast("dict[str, object]", job), ends[1].fileno())
        finally:
            for end in ends:
                end.close()


class _Zygote:
    """The pool's handle on one zygote."""

    def __init__(self, role: Literal["solution", "checker"], budget_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self.control = Control(ours)
        arguments = [str(Path(__file__).parents[2]), role, str(theirs.fileno()), repr(budget_seconds)]
        self._process = subprocess.Popen(
            # Not -I, which ignores PYTHONHASHSEED: the environment is ours whole, and -P and -s are the rest of -I.
            [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(),
            cwd="/",
            start_new_session=True,  # a Ctrl-C is for the pool, which then ends it
        )
        theirs.close()
        self._role = role
        self._budget_seconds = budget_seconds
        self._scratch = ""
        self.isolation = Isolation((), ())

    def await_start(self) -> None:
        """Wait until it can be used. Raises SandboxError."""
        try:
            self.control.wait_at_most(_START_SECONDS)
            hello, _ = self.control.receive()
        except ControlClosed:
            self.close()
            root = Path(__file__).parents[2]
            raise SandboxError(
                f"the sandbox's {self._role} process did not start (exit status {self._process.returncode}); "
                f"see what it says: PYTHONPATH={root} {sys.executable} -S -c 'import evaluation.sandbox.zygote'"
            ) from None
        self.control.wait_at_most(HARD_WALL_BUDGETS * self._budget_seconds + _GRACE_SECONDS)
        active, missing = cast("list[list[str]]", hello["isolation"])
        self.isolation = Isolation(tuple(active), tuple(missing))
        self._scratch = str(hello["scratch"])

    def end_of_run(self) -> dict[str, object]:
        """Wait for the report of the run under way. Raises ControlClosed."""
        return self.control.receive()[0]

    def close(self) -> None:
        """End the process, and its run with it."""
        self.control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Return all that a zygote learns of our environment."""
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TMPDIR": tempfile.gettempdir()}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters find their own library by it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def _judge(checked: dict[str, object], solved: dict[str, object], cpu_limit: int) -> Verdict:
    """Return what the two sides' reports come to. Raises _Undecided."""
    verdict = checked["verdict"]
    if verdict is None:
        return _judge_end(checked, "the tests' process", cpu_limit)
    status, detail = cast("list[str]", verdict)
    if status == "undecided":
        raise _Undecided(detail)
    if status == "lost":
        if solved["exit"] == 0:
            return Verdict("failed", detail)
        return _judge_end(solved, "the solution's process", cpu_limit)
    return Verdict(cast("Status", status), detail)


def _judge_end(report: dict[str, object], which: str, cpu_limit: int) -> Verdict:
    """Return what a process's own end says, where it left no verdict."""
    code = cast("int", report["exit"])
    if code >= 0:
        return Verdict("failed", f"{which} ended by itself (exit status {code})")
    ignored_the_limit = code == -signal.SIGKILL and cast("float", report["cpu_seconds"]) >= cpu_limit
    if code == -signal.SIGXCPU or ignored_the_limit:
        return Verdict("timeout", "timed out")
    name = str(-code)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
    return Verdict("killed", f"{which} was ended by {name}")
