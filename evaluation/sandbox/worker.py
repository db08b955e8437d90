"""One worker of the pool: a pair of zygotes, and what their two reports of a run mean together.

Guarantees: a pass comes from the checker alone; what the solution's process is reported to have done only explains a
check that lost it. A broken pair is replaced and the program run again, so that no fault of ours becomes its score.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evaluation.sandbox.bubblewrap import SCRATCH, Bubblewrap
from evaluation.sandbox.checker import CheckerJob
from evaluation.sandbox.clock import NOWHERE, open_processes
from evaluation.sandbox.control import Control, ControlClosed
from evaluation.sandbox.errors import ConfinementError, SandboxError
from evaluation.sandbox.gate import Gate
from evaluation.sandbox.interpreter import executable, numpy_folders
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.limits import cpu_limit_seconds
from evaluation.sandbox.scratch import OwnFolder
from evaluation.sandbox.solution import SolutionJob
from evaluation.sandbox.verdict import Status, Verdict
from evaluation.sandbox.zygote import Role, ZygoteSettings

if TYPE_CHECKING:
    from evaluation.problems import Problem

# A run that had so many budgets of time on the wall, and still not one of its own, tells of the machine and not of the
# program; it is repeated alone, and then may take the longer.
_HARD_WALL_BUDGETS, _HARD_WALL_BUDGETS_ALONE = 10, 100
_ATTEMPTS = 3
_START_SECONDS = 60.0
_GRACE_SECONDS = 20.0

_BOOT = """
import json, sys
sys.path.append(sys.argv[1])
from evaluation.sandbox.zygote import ZygoteSettings, main
sys.path.pop()
main(ZygoteSettings(**json.loads(sys.argv[2])))
"""


class _Undecided(Exception):
    """A run that says nothing of its program."""


class _Starved(_Undecided):
    """One that the machine gave no time."""


class Worker:
    """A pair of zygotes, started when first needed. Belongs to one thread; `stop` alone may be called from others.

    Args:
        budget_seconds: the time of a check; None for what its problem gives.
        gate: of the pool.
        bubblewrap: what the zygotes are put in, if it works here.
    """

    def __init__(self, budget_seconds: float | None, gate: Gate, bubblewrap: Bubblewrap) -> None:
        self._budget_seconds = budget_seconds
        self._gate = gate
        self._bubblewrap = bubblewrap
        self._pair: tuple[_Zygote, _Zygote] | None = None
        self._owes_report = False  # the solution's zygote, of the last run
        self._lock = threading.Lock()  # of the pair's coming and going, against `stop`
        self._stopped = False

    def start(self) -> Isolation:
        """Start the pair if there is none, and return the layers that runs are under. Raises SandboxError."""
        if self._pair is None:
            with self._lock:
                if self._stopped:
                    raise SandboxError("the sandbox has been closed")
                solution = _Zygote("solution", self._bubblewrap)
                self._owes_report = False
                try:
                    self._pair = solution, _Zygote("checker", self._bubblewrap)
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
        """Run one program against its tests; alone in the pool, if the machine had no time for it among others."""
        reason = ""
        starved = False
        for _ in range(_ATTEMPTS):
            try:
                with self._gate.alone() if starved else self._gate.together():
                    self.start()
                    return self._attempt(problem, completion, alone=starved)
            except _Starved as error:
                reason, starved = str(error), True
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

    def _attempt(self, problem: Problem, completion: str, alone: bool) -> Verdict:
        """Run one program once. Raises _Undecided."""
        assert self._pair is not None
        solution, checker = self._pair
        budget_seconds = self._budget_seconds or problem.timeout_seconds
        hard_wall_seconds = budget_seconds * (_HARD_WALL_BUDGETS_ALONE if alone else _HARD_WALL_BUDGETS)
        try:
            if self._owes_report:  # of the run before: it has ended while the caller had its verdict
                solution.end_of_run(hard_wall_seconds)
            self._owes_report = True
            self._submit(problem, completion, budget_seconds, hard_wall_seconds)
            checked = checker.end_of_run(hard_wall_seconds)
            solution.control.send({})
            if checked["verdict"] and cast("tuple[str, str]", checked["verdict"])[0] != "lost":
                return _judge(checked)
            solved = solution.end_of_run(hard_wall_seconds)
            self._owes_report = False
        except ControlClosed:
            raise _Undecided("a sandbox process has died") from None
        return _judge_lost(checked, solved, cpu_limit_seconds(budget_seconds))

    def _submit(self, problem: Problem, completion: str, budget_seconds: float, hard_wall_seconds: float) -> None:
        """Give each side its part, and one end each of a fresh connection. Raises ControlClosed."""
        assert self._pair is not None
        program = f"{problem.prompt}{completion}\n"
        solving = SolutionJob(program, problem.entry_point)
        checking = CheckerJob(problem.prompt, problem.test, problem.entry_point)
        limits = {"budget_seconds": budget_seconds, "hard_wall_seconds": hard_wall_seconds}
        ends = socket.socketpair()
        try:
            for zygote, job, end in zip(self._pair, (asdict(solving), asdict(checking)), ends, strict=True):
                zygote.control.send({"job": job, **limits}, end.fileno())
        finally:
            for end in ends:
                end.close()


class _Zygote:
    """The pool's handle on one zygote."""

    def __init__(self, role: Role, bubblewrap: Bubblewrap) -> None:
        self._role = role
        self._scratch = None if role == "checker" or bubblewrap.command else OwnFolder()
        boxed = bool(bubblewrap.command)
        scratch = str(SCRATCH) if boxed and role == "solution" else str(self._scratch.path) if self._scratch else ""
        ours, theirs = socket.socketpair()
        processes = open_processes()
        self.control = Control(ours)
        settings = ZygoteSettings(
            role=role,
            control=theirs.fileno(),
            processes=processes,
            scratch=scratch,
            numpy=tuple(map(str, numpy_folders())),
            bubblewrap=bubblewrap.detail if boxed else "",
            without_bubblewrap="" if boxed else bubblewrap.detail,
        )
        # Not -I, which ignores PYTHONHASHSEED: the environment is ours whole, and -P and -s are the rest of -I.
        command = [executable(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT]
        try:
            self._process = subprocess.Popen(
                [*bubblewrap.command, *command, str(Path(__file__).parents[2]), settings.to_argument()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor for descriptor in (theirs.fileno(), processes) if descriptor != NOWHERE],
                env=_environment(),
                cwd="/",
                start_new_session=True,  # a Ctrl-C is for the pool, which then ends it
            )
        finally:
            theirs.close()
            if processes != NOWHERE:
                os.close(processes)
        self.isolation = Isolation()

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
                f"see what it says: PYTHONPATH={root} {executable()} -S -c 'import evaluation.sandbox.zygote'"
            ) from None
        self.isolation = Isolation.of(cast("dict[str, Any]", hello["isolation"]))
        if self.isolation.shortfall:
            raise ConfinementError(self.isolation)

    def end_of_run(self, hard_wall_seconds: float) -> dict[str, object]:
        """Wait for the report of the run under way. Raises ControlClosed."""
        self.control.wait_at_most(hard_wall_seconds + _GRACE_SECONDS)
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
            self._scratch.close()


def _environment() -> dict[str, str]:
    """Return all that a zygote learns of our environment."""
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters find their own library by it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def _judge(checked: dict[str, object]) -> Verdict:
    """Return what the checker's verdict comes to. Raises _Undecided."""
    status, detail = cast("tuple[str, str]", checked["verdict"])
    if status == "starved":
        raise _Starved(detail)
    if status == "undecided":
        raise _Undecided(detail)
    return Verdict(cast("Status", status), detail)


def _judge_lost(checked: dict[str, object], solved: dict[str, object], cpu_limit: int) -> Verdict:
    """Return what the two sides' reports come to when the checker ended without a word, or has lost the solution."""
    if checked["verdict"] is None:
        return _judge_end(checked, "the tests' process", cpu_limit)
    if solved["exit"] == 0:
        return Verdict("failed", cast("tuple[str, str]", checked["verdict"])[1])
    return _judge_end(solved, "the solution's process", cpu_limit)


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
