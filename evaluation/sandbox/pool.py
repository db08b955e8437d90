"""The pool: warm pairs, one a thread, that score completions as they come.

Guarantees: an infrastructure error restarts the pair and repeats the run, and is never a failed completion; after the pool is closed,
or its process is killed, nothing of it is left running.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from evaluation.errors import EvaluationError
from evaluation.sandbox import seccomp
from evaluation.sandbox.pair import Pair, PairError
from evaluation.sandbox.verdict import Verdict

if TYPE_CHECKING:
    from evaluation.problems import Problem

_TRIES = 3

_Job: TypeAlias = "tuple[Problem, str, Future[Verdict]]"
_Jobs: TypeAlias = "queue.SimpleQueue[_Job | None]"


class SandboxPool:
    """Scores completions in isolated processes. Thread-safe; a context manager.

    Args:
        workers: pairs of processes; by default one a core.
        timeout_seconds: the time that a completion has for all its tests.

    Raises:
        EvaluationError: this is no Linux, or the processes cannot be started.
    """

    def __init__(self, workers: int | None = None, timeout_seconds: float = 3.0) -> None:
        if sys.platform != "linux":
            raise EvaluationError(
                f"model-written code is executed on Linux only, and this is {sys.platform}; run this in a Linux container"
            )
        count = workers or os.cpu_count() or 1
        self._jobs: _Jobs = queue.SimpleQueue()
        started: queue.SimpleQueue[bool | BaseException] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs, timeout_seconds, started), name="sandbox", daemon=True)
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()
        self._closer = weakref.finalize(self, _stop, self._jobs, self._threads)
        answers = [started.get() for _ in self._threads]
        for answer in answers:
            if isinstance(answer, BaseException):
                self.close()
                raise EvaluationError(f"the sandbox's processes do not start: {answer}") from answer
        self._has_landlock = all(answers)

    @property
    def isolation(self) -> str:
        """One line that names the active layers, and those that this system lacks."""
        layers = {
            "seccomp": os.uname().machine in seccomp.MACHINES,
            "landlock": self._has_landlock,
        }
        active = ["two processes", "rlimits", "no-new-privs", *(name for name, there in layers.items() if there)]
        missing = [name for name, there in layers.items() if not there]
        return ", ".join(active) + (f"; missing: {', '.join(missing)}" if missing else "")

    def submit(self, problem: Problem, completion: str) -> Future[Verdict]:
        """Score a completion in the background."""
        future: Future[Verdict] = Future()
        self._jobs.put((problem, completion, future))
        return future

    def run(self, problem: Problem, completion: str) -> Verdict:
        """Score a completion and wait for its verdict."""
        return self.submit(problem, completion).result()

    def check(self, programs: Iterable[tuple[Problem, str]]) -> Iterator[tuple[int, Verdict]]:
        """Yield (index, verdict) of many completions as they are scored; the iterable is read as far as needed."""
        running: dict[Future[Verdict], int] = {}
        for index, (problem, completion) in enumerate(programs):
            running[self.submit(problem, completion)] = index
            if len(running) > 4 * len(self._threads):
                yield from _take(running)
        while running:
            yield from _take(running)

    def close(self) -> None:
        """End the processes once what was submitted is scored. May be called again."""
        self._closer()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take(running: dict[Future[Verdict], int]) -> Iterator[tuple[int, Verdict]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _stop(jobs: _Jobs, threads: list[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join()


def _work(jobs: _Jobs, timeout_seconds: float, started: queue.SimpleQueue[bool | BaseException]) -> None:
    try:
        pair = Pair(timeout_seconds)
    except BaseException as error:  # handed to the thread that makes the pool
        started.put(error)
        return
    started.put(pair.has_landlock)
    while job := jobs.get():
        problem, completion, future = job
        verdict = None
        for _ in range(_TRIES):
            try:
                verdict = pair.run(problem, completion)
                break
            except PairError as error:
                failure = Verdict(False, "harness_error", str(error)[:200])
                pair.close()
                pair = Pair(timeout_seconds)
        future.set_result(verdict or failure)
    pair.close()
