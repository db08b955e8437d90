"""The states of searches, as a table for users and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from search.overview import SearchOverview, State
from search.views.table import plain_table

_STYLES: dict[State, str] = {"running": "bold green", "stopped": "yellow", "unreadable": "red", "starting": "dim"}
_NUMERIC = ("best", "report [95%]", "gain", "trials")
# From this width on there is room for every column.
_WIDE = 120


def overview_table(found: Sequence[SearchOverview], width: int) -> Table:
    """Return a line per search, in the given order; a narrow terminal has no room for all columns."""
    columns = ["", "best", "report [95%]", "gain", "verdict", "trials", "active", "state"]
    kept = range(len(columns)) if width >= _WIDE else [0, 1, 3, 4, 5, 7]
    table = plain_table(*(columns[index] for index in kept), numeric=_NUMERIC)
    table.columns[0].overflow = "fold"  # so that the whole path can be copied
    for each in found:
        cells = [str(each.path), *_scores(each), *_trials(each), _state(each)]
        table.add_row(*(Text(cells[index]) for index in kept), style=_STYLES.get(each.state, ""))
    return table


def overview_data(each: SearchOverview) -> dict[str, Any]:
    """Return the state of a search as plain data."""
    content: dict[str, Any] = {"path": str(each.path), "state": each.state, "why": each.why or None}
    if each.board is None:
        return content
    best, verdict = each.best, each.board.verdict
    active = None if each.active is None else datetime.fromtimestamp(each.active, UTC).isoformat(timespec="seconds")
    return content | {
        "study": each.board.study, "best": each.board.best, "best_parent": each.board.best_parent,
        "search_score": best.record.search.score if best else None,
        "report_score": best.record.on("report").score if best else None,
        "report_interval": best.report_interval if best else None, "verdict": verdict.ruling,
        "points": verdict.points, "p_value": verdict.p_value, "sentence": verdict.sentence, "done": each.done,
        "failed": each.failed, "planned": each.planned, "workers": each.workers, "active": active,
    }  # fmt: skip


def _scores(each: SearchOverview) -> list[str]:
    """Return the cells of the best trial and the verdict."""
    if each.board is None or not each.done:
        return ["", "", "", ""]
    verdict = each.board.verdict
    if each.best is None:
        return ["", "", "", verdict.ruling]
    record = each.best.record
    report = ""
    if (score := record.on("report").score) is not None and each.best.report_interval is not None:
        low, high = each.best.report_interval
        report = f"{score:.1%} [{low:.0%}, {high:.0%}]"
    gain = "" if verdict.points is None else f"{verdict.points * 100:+.1f}"
    return [f"{record.search.score:.1%}", report, gain, verdict.ruling]


def _trials(each: SearchOverview) -> list[str]:
    trials = f"{each.done}/{max(each.planned, each.done)}" if each.board else ""
    active = "" if each.active is None else datetime.fromtimestamp(each.active).strftime("%Y-%m-%d %H:%M")
    return [trials, active]


def _state(each: SearchOverview) -> str:
    if each.state == "running":
        return "running" if each.workers == 1 else f"running, {each.workers} workers"
    failed = f" ({each.failed} failed)" if each.failed else ""
    # Without the remedy, which other commands tell.
    return f"{each.state}: {each.why.partition(';')[0]}{failed}"
