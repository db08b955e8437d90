"""One worker of the pool: a pair of zygotes, and the verdict that follows from their two reports on a run.

Guarantees: only the checker can report a pass; the report on the solution's process only explains why a check lost it.
A broken pair is replaced and the program is run again, so that our fault never becomes the program's score.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path

from evaluation.sandbox.bubblewrap import SCRATCH, Bubblewrap
from evaluation.sandbox.clock import NOWHERE, open_processes
from evaluation.sandbox.control import Control, ControlClosed
from evaluation.sandbox.control_messages import Ended, Judged, Run, Stop
from evaluation.sandbox.errors import ConfinementError, SandboxError
from evaluation.sandbox.gate import Gate
from evaluation.sandbox.interpreter import executable, numpy_folders
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.limits import cpu_limit_seconds
from evaluation.sandbox.scratch import OwnFolder
from evaluation.sandbox.task import Task
from evaluation.sandbox.verdict import Verdict
from evaluation.sandbox.zygote import Role, ZygoteSettings

# If a run has not used its budget after this many budgets of wall time, the machine is at fault, not the program. The
# run is repeated with nothing else in the pool, and may then take longer.
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
    """A run says nothing about its program."""


class _Starved(_Undecided):
    """The machine gave a run no time."""


class ZygotePair:
    """A pair of zygotes, started when first needed. It belongs to one thread; others may only call `stop`.

    Args:
        budget_seconds: the time per check; None for the task's own.
        gate: the pool's gate.
        bubblewrap: the bubblewrap that the zygotes run in, if it works here.
    """

    def __init__(self, budget_seconds: float | None, gate: Gate, bubblewrap: Bubblewrap) -> None:
        self._budget_seconds = budget_seconds
        self._gate = gate
        self._bubblewrap = bubblewrap
        self._pair: tuple[_Zygote, _Zygote] | None = None
        self._owes_report = False  # whether the solution's zygote has yet to report the end of the last run
        self._lock = threading.Lock()  # guards the pair against a `stop` while it starts or ends
        self._stopped = False

    def start(self) -> Isolation:
        """Start the pair if there is none, and return the layers that confine runs. Raises SandboxError."""
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

    def check(self, task: Task, completion: str) -> Verdict:
        """Run one program against its tests; if the machine gave it no time among others, run it again alone."""
        reason = ""
        starved = False
        for _ in range(_ATTEMPTS):
            try:
                with self._gate.alone() if starved else self._gate.together():
                    self.start()
                    return self._attempt(task, completion, alone=starved)
            except _Starved as error:
                reason, starved = str(error), True
            except (_Undecided, SandboxError, OSError) as error:
                reason = str(error) or type(error).__name__
                self.close()
        return Verdict("harness_error", f"undecided after {_ATTEMPTS} attempts: {reason}")

    def stop(self) -> None:
        """End the current check, and every later one, with a harness error; `close` must follow."""
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

    def _attempt(self, task: Task, completion: str, alone: bool) -> Verdict:
        """Run one program once. Raises _Undecided."""
        assert self._pair is not None
        solution, checker = self._pair
        budget_seconds = self._budget_seconds or task.timeout_seconds
        hard_wall_seconds = budget_seconds * (_HARD_WALL_BUDGETS_ALONE if alone else _HARD_WALL_BUDGETS)
        try:
            if self._owes_report:  # the previous verdict was returned before its run had ended
                solution.end_of_run(hard_wall_seconds)
            self._owes_report = True
            self._submit(task, completion, budget_seconds, hard_wall_seconds)
            checked = checker.end_of_run(hard_wall_seconds)
            solution.control.send(Stop())
            if isinstance(checked, Judged) and checked.status != "lost":
                if checked.status == "starved":
                    raise _Starved(checked.detail)
                if checked.status == "undecided":
                    raise _Undecided(checked.detail)
                return Verdict(checked.status, checked.detail)
            solved = solution.end_of_run(hard_wall_seconds)
            self._owes_report = False
        except ControlClosed:
            raise _Undecided("a sandbox process has died") from None
        return _verdict_on_end(checked, solved, cpu_limit_seconds(budget_seconds))

    def _submit(self, task: Task, completion: str, budget_seconds: float, hard_wall_seconds: float) -> None:
        """Send each side its job and one end of a new connection. Raises ControlClosed."""
        assert self._pair is not None
        sides = (f"{task.prompt}{completion}\n", ""), (task.prompt, task.test)
        ends = socket.socketpair()
        try:
            for zygote, (program, test), end in zip(self._pair, sides, ends, strict=True):
                run = Run(program, test, task.entry_point, budget_seconds, hard_wall_seconds)
                zygote.control.send(run, end.fileno())
        finally:
            for end in ends:
                end.close()


class _Zygote:
    """The worker's end of one zygote."""

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
        # Not -I, because it ignores PYTHONHASHSEED: -P and -s are the rest of it, and the whole environment is ours.
        command = [executable(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT]
        try:
            self._process = subprocess.Popen(
                [*bubblewrap.command, *command, str(Path(__file__).parents[2]), json.dumps(asdict(settings))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor for descriptor in (theirs.fileno(), processes) if descriptor != NOWHERE],
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches the pool, which then ends this process
            )
        finally:
            theirs.close()
            if processes != NOWHERE:
                os.close(processes)
        self.isolation = Isolation()

    def await_start(self) -> None:
        """Wait until the zygote is ready. Raises SandboxError."""
        try:
            self.control.wait_at_most(_START_SECONDS)
            isolation, _ = self.control.receive()
        except ControlClosed:
            self.close()
            root = Path(__file__).parents[2]
            raise SandboxError(
                f"the sandbox's {self._role} process did not start (exit status {self._process.returncode}); "
                f"to see why, run PYTHONPATH={root} {executable()} -S -c 'import evaluation.sandbox.zygote'"
            ) from None
        assert isinstance(isolation, Isolation)
        self.isolation = isolation
        if isolation.shortfall:
            raise ConfinementError(isolation)

    def end_of_run(self, hard_wall_seconds: float) -> Judged | Ended:
        """Wait for the report of the current run. Raises ControlClosed."""
        self.control.wait_at_most(hard_wall_seconds + _GRACE_SECONDS)
        report, _ = self.control.receive()
        assert isinstance(report, Judged | Ended)
        return report

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
    """Return the environment of a zygote."""
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters find their own library through it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def _verdict_on_end(checked: Judged | Ended, solved: Judged | Ended, cpu_limit: int) -> Verdict:
    """Return the verdict on a check whose checker ended without one, or lost the solution's process."""
    if isinstance(checked, Ended):
        return _verdict_on_process(checked, "the tests' process", cpu_limit)
    assert isinstance(solved, Ended)
    if solved.exit_code == 0:
        return Verdict("failed", checked.detail)
    return _verdict_on_process(solved, "the solution's process", cpu_limit)


def _verdict_on_process(ended: Ended, which: str, cpu_limit: int) -> Verdict:
    """Return the verdict on a process that ended without one."""
    code = ended.exit_code
    if code >= 0:
        return Verdict("failed", f"{which} ended by itself (exit status {code})")
    ignored_the_limit = code == -signal.SIGKILL and ended.cpu_seconds >= cpu_limit
    if code == -signal.SIGXCPU or ignored_the_limit:
        return Verdict("timeout", "timed out")
    name = str(-code)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
    return Verdict("killed", f"{which} was ended by {name}")
