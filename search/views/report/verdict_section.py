"""The verdict of a search, in one sentence, and the numbers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.counts import counted
from search.views.report.section import Section, rendered

if TYPE_CHECKING:
    from search.evidence import SearchEvidence


def verdict(evidence: SearchEvidence) -> Section:
    """Return the section that says whether a trial is better than every parent."""
    board, states = evidence.board, [record.search.state for record in evidence.trials]
    known = ("complete", "pruned", "failed", "running", "waiting")
    counts = [f"{states.count(state)} {state}" for state in known if state in states]
    html = rendered(
        "verdict.html",
        verdict=board.verdict,
        ruling=board.verdict.ruling if board.records else "none",
        sentence=board.verdict.sentence if board.records else "No trial is over yet.",
        best=board.best_row,
        parent=next((row for row in board.rows if row.record.kind == "parent" and row.name == board.best_parent), None),
        trials=f"{counted(len(states), 'trial')} ({', '.join(counts)})" if states else "",
        optimism=board.optimism,
        confirmed=board.confirmed_on,
        at_work=evidence.is_at_work,
    )
    return Section("verdict", "Verdict", html)
