"""The leaderboard of a search, as a table that can be sorted and searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.board.names import LABEL_WIDTH, NAME_WIDTH, displayed_name, parameter_lines, shorten
from search.board.search_verdict import shown_p
from search.views.report.section import Section, rendered
from search.views.table import parents_of, versus

if TYPE_CHECKING:
    from search.board.leaderboard import Row
    from search.evidence import SearchEvidence

_UNBROKEN = 10**6  # wider than any line of parameters


@dataclass(frozen=True)
class _Line:
    """One row as the table shows it."""

    row: Row
    called: str
    versus: str
    p_value: str
    parameters: str
    mark: str
    style: str


def leaderboard(evidence: SearchEvidence) -> Section:
    """Return the section with one row per model that is over."""
    board = evidence.board
    names, short = parents_of(board, NAME_WIDTH), parents_of(board, LABEL_WIDTH)
    lines = [_line(evidence, row, names, short) for row in board.rows]
    sets = list(dict.fromkeys(name for row in board.rows for name in row.search_scores))
    html = rendered("leaderboard.html", lines=lines, sets=[(name, shorten(name, NAME_WIDTH)) for name in sets],
                    has_confirm=bool(board.confirmed_on),
                    starred=any(row.compared_on == "search" for row in board.rows))  # fmt: skip
    return Section("leaderboard", "Leaderboard", html)


def _line(evidence: SearchEvidence, row: Row, names: dict[str, str], short: dict[str, str]) -> _Line:
    record, board = row.record, evidence.board
    is_best_parent = (record.kind, row.name) == ("parent", board.best_parent)
    marks = {
        "best parent": is_best_parent,
        "Pareto front": row.on_front,
        f"= trial {record.same_as}": record.same_as is not None,
        "best": record.kind == "trial" and record.number == board.best,
    }
    return _Line(
        row,
        displayed_name(record, names),
        versus(row),
        "" if row.p_value is None else shown_p(row.p_value),
        "  ".join(parameter_lines(record.parameters, record.recipe, short, _UNBROKEN)),
        ", ".join(mark for mark, holds in marks.items() if holds),
        "reference" if record.kind != "trial" else "best" if record.number == board.best else "",
    )
