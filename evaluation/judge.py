"""The judge: programs in, verdicts out. It raises if the sandbox cannot decide about a program.

Guarantees: every verdict is a fact about the completion. An error names the problems that the sandbox cannot score. It
is raised before generated code is executed if their own solutions show it, or else as soon as a completion does. A
completion is executed only once while its verdict is remembered; a store remembers it forever.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Self

from evaluation.errors import EvaluationError
from evaluation.problems import Problem
from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.pool import SandboxPool
from evaluation.sandbox.verdict import Verdict
from evaluation.verdicts import VerdictStore, verdict_key

_LOG = logging.getLogger(__name__)

_REMEMBERED = 30_000  # verdicts, at about 300 bytes
_NAMED = 5


class Judge:
    """Checks completions in a sandbox of its own. Use as a context manager, or call `close`.

    Args:
        workers: sandbox processes; by default one per core that this process may use.
        timeout_seconds: the time limit for all tests of one completion; by default its problem's.

    Attributes:
        sandbox: where programs are executed.

    Raises:
        EvaluationError: the sandbox cannot start here, or an argument is out of range.
    """

    def __init__(self, *, workers: int | None = None, timeout_seconds: float | None = None) -> None:
        with _reported():
            self.sandbox = SandboxPool(workers=workers, timeout_seconds=timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._own: dict[Problem, Verdict] = {}
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._store: VerdictStore | None = None

    def remember_in(self, store: VerdictStore) -> None:
        """Keep verdicts in a store from now on, and use those that it holds; judges may share it."""
        self._store = store

    def admit(self, problems: Iterable[Problem]) -> None:
        """Check the problems' own solutions, each once per judge.

        A solution that fails is only logged: that is the problem set's fault, and a set may come without solutions.

        Raises:
            EvaluationError: some problems cannot be scored with any completion; the message names them.
        """
        new = [problem for problem in problems if problem not in self._own]
        with _reported():
            checked = self.sandbox.check((problem, problem.canonical_solution) for problem in new)
            found = {new[index]: verdict for index, verdict in checked}
        for problem, verdict in found.items():
            if verdict.status == "harness_error":
                raise _sandbox_failed(problem, verdict)
        unscorable = {problem: verdict for problem, verdict in found.items() if verdict.status == "unscorable"}
        if unscorable:
            raise EvaluationError(
                f"{len(unscorable)} of {len(new)} problems cannot be scored in the sandbox; remove them from the set: "
                f"{_listed(unscorable)}"
            )
        self._own |= found
        failed = {problem: verdict for problem, verdict in found.items() if not verdict.passed}
        failed = {problem: verdict for problem, verdict in failed.items() if problem.canonical_solution.strip()}
        if failed:
            named = _listed(failed)
            _LOG.warning("%d of %d problems fail with their own solutions: %s", len(failed), len(new), named)

    def verdicts(self, programs: Iterable[tuple[Problem, str]]) -> Generator[tuple[int, Verdict]]:
        """Check completions of admitted problems, taking them from ``programs`` as fast as it yields them.

        Yields:
            The index of a completion in ``programs`` and its verdict, in order of arrival. A caller may stop early.

        Raises:
            EvaluationError: the sandbox failed, or cannot score a problem; the message names it.
        """
        submitted: list[tuple[bytes, Problem]] = []
        waiting: dict[bytes, list[int]] = {}  # the indices of each program in the sandbox
        found: dict[bytes, Verdict] = {}
        try:
            with _reported(), self.sandbox.batch() as batch:
                for index, (problem, completion) in enumerate(programs):
                    key = verdict_key(problem, completion, self._timeout_seconds, self.sandbox.isolation)
                    if (known := self._recall(key)) is not None:
                        yield index, known
                    elif key in waiting:
                        waiting[key].append(index)
                    else:
                        batch.submit(problem, completion)
                        submitted.append((key, problem))
                        waiting[key] = [index]
                    for place, verdict in batch.ready():
                        yield from self._take(*submitted[place], verdict, waiting, found)
                for place, verdict in batch.rest():
                    yield from self._take(*submitted[place], verdict, waiting, found)
        finally:
            if self._store is not None and found:
                self._store.add_verdicts(found)

    def close(self) -> None:
        """End the sandbox's processes at once."""
        self.sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recall(self, key: bytes) -> Verdict | None:
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        verdict = None if self._store is None else self._store.verdict(key)
        if verdict:
            self._remember(key, verdict)
        return verdict

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        self._known[key] = verdict
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _take(
        self,
        key: bytes,
        problem: Problem,
        verdict: Verdict,
        waiting: dict[bytes, list[int]],
        found: dict[bytes, Verdict],
    ) -> Iterator[tuple[int, Verdict]]:
        """Record the verdict on a program, and yield it for every index that waits for it."""
        found[key] = verdict = self._decided(problem, verdict)
        self._remember(key, verdict)
        for index in waiting.pop(key):
            yield index, verdict

    def _decided(self, problem: Problem, verdict: Verdict) -> Verdict:
        """Return the verdict on a completion. Raises EvaluationError if the sandbox could not decide."""
        if verdict.status == "unscorable" and problem in self._own and self._own[problem].passed:
            # The tests work with the problem's own solution, so what they could not pass on came from this completion.
            verdict = Verdict("failed", verdict.detail)
        if verdict.status == "unscorable":
            raise EvaluationError(
                f"{problem.task_id}: cannot be scored in the sandbox; remove it from the set: {verdict.detail}"
            )
        if verdict.status == "harness_error":
            raise _sandbox_failed(problem, verdict)
        return verdict


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Raise the sandbox's errors as EvaluationError."""
    try:
        yield
    except SandboxError as error:
        raise EvaluationError(str(error)) from error


def _sandbox_failed(problem: Problem, verdict: Verdict) -> EvaluationError:
    return EvaluationError(f"{problem.task_id}: the sandbox failed, not the program: {verdict.detail}")


def _listed(found: dict[Problem, Verdict]) -> str:
    named = [f"{problem.task_id} ({verdict.detail or verdict.status})" for problem, verdict in found.items()]
    return ", ".join(named if len(named) <= _NAMED else [*named[:_NAMED], f"and {len(named) - _NAMED} more"])
