"""Optimism: how much of a score on the search split is luck, compared with the score on the report split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.board.names import LABEL_WIDTH, displayed_name
from search.views.report.colours import LIGHT
from search.views.report.figures import BELOW, as_text, error_bars, figure_section, percent_axis
from search.views.report.history import interval_of
from search.views.table import parents_of

if TYPE_CHECKING:
    from search.evidence import SearchEvidence
    from search.study.record import TrialRecord
    from search.views.report.section import Section


def optimism(evidence: SearchEvidence) -> Section | None:
    """Return the section with both scores of each model that has them; None if none has."""
    both = [it for it in evidence.board.records if it.search.score is not None and it.on("report").score is not None]
    if not both:
        return None
    import plotly.graph_objects as go

    figure = go.Figure()
    ends = _ends(both)
    diagonal = {"color": LIGHT["grey"], "dash": "dot", "width": 1}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=diagonal, name="no optimism", hoverinfo="skip"))
    names = parents_of(evidence.board, LABEL_WIDTH)
    for kind, name, colour, symbol in (
        ("trial", "trials", LIGHT["blue"], "circle"),
        ("parent", "parents", LIGHT["orange"], "square"),
        ("average", "average", LIGHT["purple"], "diamond"),
    ):
        records = [record for record in both if record.kind == kind]
        if not records:
            continue
        scores = [record.on("report").score or 0.0 for record in records]
        bounds = [interval_of(evidence, record, "report") for record in records]
        text = [
            f"{as_text(displayed_name(record, names))}<br>search split {record.search.score:.1%}"
            f"<br>report split {score:.1%} [{low:.0%}, {high:.0%}]"
            for record, score, (low, high) in zip(records, scores, bounds, strict=True)
        ]
        error = error_bars(scores, bounds, colour)
        figure.add_trace(
            go.Scatter(
                x=[record.search.score for record in records], y=scores, mode="markers", name=name, error_y=error,
                marker={"color": colour, "symbol": symbol, "size": 9}, hovertext=text, hoverinfo="text",
            )
        )  # fmt: skip
    figure.update_layout(
        xaxis=percent_axis("score on the search split", range=ends, zeroline=False),
        yaxis=percent_axis("score on the report split [95%]", zeroline=False),
        legend=BELOW,
        margin={"t": 10, "r": 20},
    )
    before = (
        "The search chooses by the search split, so the best trial there was lucky, too. Points below the dotted line "
        "score less on problems that the search never saw."
    )
    return figure_section("optimism", "Search against report split", {"optimism": figure}, before, optimism=480)


def _ends(both: list[TrialRecord]) -> list[float]:
    """Return an interval that contains all scores on the search split."""
    scores = [record.search.score or 0.0 for record in both]
    return [max(0.0, min(scores) - 0.04), min(1.0, max(scores) + 0.04)]
