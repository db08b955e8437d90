"""The leaderboard as a table for a terminal, and what all tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from search.board.names import LABEL_WIDTH, parameter_lines, parent_names, shorten
from search.board.search_verdict import shown_p
from search.study.record import ASCENT, TAKEN_OVER, WARM_START

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard, Row
    from search.prompt_formats import Tried

# The width from which on there is room for the parameters, and what the other columns and the gaps take.
_WIDE, _OTHER_COLUMNS = 120, 54
_LEAST_NAME = 26
SET_WIDTH = 16
"""The most columns that the name of a problem set takes."""
_BEST_PARENT = " (best parent)"
_ON_FRONT = " (Pareto)"
# The sources of parameters that are named; the sampler is not.
_TOLD_SOURCES = (ASCENT, WARM_START, TAKEN_OVER)


def plain_table(*columns: str, numeric: Sequence[str] = (), title: str | None = None) -> Table:
    """Return an empty table without lines; the columns named in `numeric` are aligned to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", no_wrap=column in numeric)
    return table


def leaderboard_table(board: Leaderboard, count: int | None = None, width: int = 160) -> Table:
    """Return the leaderboard with its best `count` trials; a narrow terminal has no room for the parameters."""
    rows = board.top(count)
    sets = list(dict.fromkeys(name for row in rows for name in row.search_scores))
    titles = [shorten(name, SET_WIDTH) for name in sets]
    others = _OTHER_COLUMNS + sum(max(len(title), len("100.0%")) + 2 for title in titles)
    columns = ["", "search", *titles, "report [95%]", "won:lost", "p", "s", "parameters"]
    limit = width // 4 if width >= _WIDE else max(width - others, _LEAST_NAME)
    called = [_called(board, row, limit) for row in rows]
    short = parents_of(board, LABEL_WIDTH)
    room = width - others - max(map(cell_len, called), default=0)
    lines = [
        [name, *_cells(row, sets), "\n".join(parameter_lines(row.record.parameters, row.record.recipe, short, room))]
        for row, name in zip(rows, called, strict=True)
    ]
    kept = range(len(columns)) if width >= _WIDE else _fitting([columns, *lines], width, len(titles))
    shown = [columns[index] for index in kept]
    table = plain_table(*shown, numeric=columns[1:-1], title=board.study)
    for row, cells in zip(rows, lines, strict=True):
        style = "cyan" if row.record.kind != "trial" else "bold green" if row.record.number == board.best else ""
        table.add_row(*(Text(cells[index]) for index in kept), style=style)
    return table


def best_parameters(board: Leaderboard, width: int) -> list[str]:
    """Return the parameters of the best trial, as lines below a table that had no room for them; else no lines."""
    best = board.best_row
    if best is None or width >= _WIDE:
        return []
    names, record = parents_of(board, LABEL_WIDTH), best.record
    return [f"{best.name}:", *parameter_lines(record.parameters, record.recipe, names, width)]


def prompt_formats_table(tried: Sequence[Tried]) -> Table:
    """Return the results of each prompt format under each tokenizer, the best first."""
    table = plain_table("prompt", "tokenizer", "pass@1 [95%]", "s", "", numeric=("pass@1 [95%]", "s"))
    for row in sorted(tried, key=lambda row: -1.0 if row.report is None else row.report.pass_at_1, reverse=True):
        cells = [row.prompt, row.tokenizer, "", "", row.note]
        if row.report is not None:
            low, high = row.report.interval
            cells[2:4] = [f"{row.report.pass_at_1:.1%} [{low:.0%}, {high:.0%}]", f"{row.report.seconds:.1f}"]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def parents_of(board: Leaderboard, width: int = LABEL_WIDTH) -> dict[str, str]:
    """Return the displayed names of the parents of a leaderboard, by their references."""
    return parent_names((record.recipe for record in board.references if record.kind == "parent"), width)


def versus(row: Row) -> str:
    """Return how many problems a model won and lost against the best parent; empty if they were not compared."""
    # Won and lost on the search split carry no test: the search has seen it.
    return f"{row.won}:{row.lost}{'*' if row.compared_on == 'search' else ''}" if row.compared_on else ""


def _called(board: Leaderboard, row: Row, width: int) -> str:
    """Return the displayed name of a row, short enough not to push the scores off the screen."""
    kind, same_as, source = row.record.kind, row.record.same_as, row.record.proposed_by.partition(":")[0]
    told = f" ({source})" if source in _TOLD_SOURCES else ""
    mark = f" (= {same_as})" if same_as is not None else _ON_FRONT if row.on_front else told
    if (kind, row.name) == ("parent", board.best_parent):
        mark = _BEST_PARENT
    names = parents_of(board, width - len(mark)) if kind == "parent" else {}
    return (names.get(row.name) or shorten(row.name, width - len(mark))) + mark


def _fitting(lines: Sequence[Sequence[str]], width: int, sets: int) -> Sequence[int]:
    """Return the columns that a narrow terminal has room for: names and scores first, the parameters never."""
    widths = [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]
    report = 2 + sets
    kept = list(range(report + 4))
    for least in (report + 3, report + 2, report + 1, *range(report - 1, 1, -1), report):
        if sum(widths[index] for index in kept) - 2 <= width:
            break
        kept.remove(least)
    return kept


def _cells(row: Row, sets: Sequence[str]) -> Sequence[str]:
    """Return the cells between the name and the parameters."""
    search, report_score, report = row.record.search, row.record.on("report").score, ""
    seconds = f"{search.seconds.get('total', 0.0):.1f}"
    if search.score is None:
        return [search.state, *("" for _ in sets), "", "", "", seconds]
    if report_score is not None and row.report_interval is not None:
        low, high = row.report_interval
        report = f"{report_score:.1%} [{low:.0%}, {high:.0%}]"
    p_value = "" if row.p_value is None else shown_p(row.p_value)
    of_sets = [f"{row.search_scores[name]:.1%}" if name in row.search_scores else "" for name in sets]
    return [f"{search.score:.1%}", *of_sets, report, versus(row), p_value, seconds]
