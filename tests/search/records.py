"""Records of a search that never ran, for what is a function of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from search.board.leaderboard import Leaderboard, Row
from search.study.looks import Look, Looks
from search.study.outcomes import Split
from search.study.record import Kind, Scoring, SplitName, TrialRecord

ON_SEARCH, ON_REPORT = 10, 20
"""How many problems the splits have."""
SPLITS: Mapping[SplitName, Split] = {"search": Split(problems=ON_SEARCH), "report": Split(problems=ON_REPORT)}


def scoring(passed: Iterable[int], problems: int, likelihood: float | None = None) -> Scoring:
    """Return a scoring in which some of the problems passed, by their place."""
    outcomes = "".join("p" if place in set(passed) else "f" for place in range(problems))
    score = outcomes.count("p") / problems
    return Scoring("complete", outcomes, score, (score,), likelihood, {"total": 1.5})


def scored(
    kind: Kind, number: int, passed: Iterable[int], report: Iterable[int] | None = None, **more: Any
) -> TrialRecord:
    """Return a record with the problems that it passed on each split."""
    on_report = None if report is None else scoring(report, ON_REPORT)
    return TrialRecord(kind, number, search=scoring(passed, ON_SEARCH), report=on_report, **more)


def parent(number: int, name: str, passed: Iterable[int], report: Iterable[int] | None = None) -> TrialRecord:
    """Return a parent, whose name may be a path."""
    model = {"model": {"path": name}} if set(name) & set("@+") else {"model": name}
    return scored("parent", number, passed, report, name=name, recipe={"merge_method": "linear", "models": [model]})


def trial(number: int, passed: Iterable[int] | None, report: Iterable[int] | None = None, **more: Any) -> TrialRecord:
    """Return a trial of ``/models/a`` and ``/models/b``; without `passed` one that failed."""
    values = 0.25 + number / 100, 0.5, 0.75
    found = {
        "parameters": {
            "models[0].parameters.density[0]": values[0],
            "models[0].parameters.density[1]": values[1],
            "models[1].parameters.weight": values[2],
        },
        "recipe": {
            "merge_method": "ties",
            "models": [
                {"model": "/models/a", "parameters": {"density": list(values[:2])}},
                {"model": "/models/b", "parameters": {"weight": values[2]}},
            ],
        },
    }
    if passed is None:
        error = "merged tensor lm_head.weight holds NaN\nand more"
        return TrialRecord("trial", number, search=Scoring("failed", error=error), **found | more)
    return replace(scored("trial", number, passed, report, **found), **more)


RECORDS = (
    parent(0, "/models/a", range(3), range(5)),
    parent(1, "/models/b", range(5), range(8)),  # the best parent
    parent(2, "/models/base", {0}, {0}),
    scored("average", 0, {0, 1}, {0, 1}, name="average", recipe={"merge_method": "linear"}),
    trial(0, range(5), {0}),
    trial(1, range(8), {2, *range(4, 19)}),  # the best trial
    trial(2, None),
    trial(3, {1, 9}),
    TrialRecord("trial", 4, search=Scoring("running")),
)
LOOKS = Looks(10, (Look(None, 0.02, (1, 0)),))


def board(*records: TrialRecord) -> Leaderboard:
    """Return the leaderboard of some records, by default of `RECORDS`."""
    return Leaderboard.of("run", records or RECORDS, SPLITS, LOOKS)


def row(found: Leaderboard, name: str) -> Row:
    """Return the row of that name."""
    return next(row for row in found.rows if row.name == name)
