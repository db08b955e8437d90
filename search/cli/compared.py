"""The arguments of `merge-search compare`: reports of `evaluate --json`, and records of searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from search.cli.written_file import write_whole
from search.errors import SearchError

if TYPE_CHECKING:
    from search.board.compare import Comparison, Scored
    from search.views.report.comparison import Answered

COMPARED: Final = "a report (of merge-search evaluate --json), or RESULTS:TRIAL, RESULTS:PARENT or RESULTS:average"
_NO_REPORT = (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError)


def scored(reference: str) -> Scored:
    """Read the results from a report's file, or of a record given as RESULTS:NAME. Raises SearchError."""
    from search.board.compare import Scored

    if record := _record(reference):
        return _recorded(*record, reference)
    try:
        return Scored.of_report(reference, _report(reference))
    except _NO_REPORT:
        raise SearchError(f"{reference}: holds no report; give {COMPARED}") from None


def write_page(file: Path, found: Comparison, sources: Sequence[str]) -> None:
    """Write the page of two models. Raises SearchError.

    Args:
        file: the file to write.
        found: the comparison; its names are the arguments of the command.
        sources: the sources of problems to take the prompts from.
    """
    from search.views.report.comparison import comparison_page
    from search.views.report.page import utf8

    prompts = _prompts(sources)
    first, second = found.names
    write_whole(file, utf8(comparison_page(found, (_answered(first), _answered(second)), prompts)), "--html")


def _record(reference: str) -> tuple[Path, str] | None:
    """Return the results folder and the name in RESULTS:NAME, or None if it is not that."""
    parts = reference.split(":")
    for place in range(len(parts) - 1, 0, -1):  # the name of a folder or a parent may hold colons, too
        path, called = ":".join(parts[:place]), ":".join(parts[place:])
        if path and called and Path(path).is_dir():
            return Path(path), called
    return None


def _report(reference: str) -> dict[str, Any]:
    if Path(reference).is_dir():
        raise SearchError(f"{reference}: is a folder; give {COMPARED}")
    if not Path(reference).is_file():
        raise SearchError(f"{reference}: no such file; give {COMPARED}")
    return dict(json.loads(Path(reference).read_bytes()))


def _recorded(path: Path, called: str, reference: str) -> Scored:
    from search.board.compare import Scored
    from search.board.names import find_record
    from search.results import ResultsFolder

    folder = ResultsFolder.open(path)
    _, records, splits, _ = folder.read()
    record = find_record(records, called, path)
    if not record.search.outcomes:
        how = "was pruned" if record.search.state == "pruned" else "failed"
        raise SearchError(f"{reference}: {how}, so it has no outcomes to compare")
    return Scored.of_record(reference, record, splits, folder.splits)


def _answered(reference: str) -> Answered:
    from search.board.names import find_record
    from search.evidence import SearchEvidence
    from search.views.report.comparison import Answered

    if record := _record(reference):
        path, called = record
        evidence = SearchEvidence.open(path)
        return Answered.of_record(find_record(evidence.records, called, path), evidence)
    return Answered.of_report(reference, _report(reference))


def _prompts(sources: Sequence[str]) -> dict[str, str]:
    from evaluation import EvaluationError, ProblemSet, load_problems

    try:
        found = [load_problems(source) for source in sources]
        return {it.task_id: it.prompt for it in ProblemSet.joined(found, [1.0] * len(found))} if found else {}
    except EvaluationError as error:
        raise SearchError(f"--problems: {error}") from None
