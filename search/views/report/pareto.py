"""The Pareto front of a search with several objectives: each pair of them, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from evaluation.scoring import Interval, interval
from search.board.names import LABEL_WIDTH, displayed_name, shorten
from search.board.ranking import front
from search.board.search_verdict import objectives
from search.views.report.colours import LIGHT
from search.views.report.figures import BELOW, as_text, error_bars, figure_section, percent_axis
from search.views.table import parents_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from search.evidence import SearchEvidence
    from search.study.record import TrialRecord
    from search.views.report.section import Section

_MOST_PAIRS = 6


def pareto(evidence: SearchEvidence) -> Section | None:
    """Return the section with the front; None with a single objective, or no score."""
    scored = [record for record in evidence.board.records if len(record.search.scores) > 1]
    if objectives(evidence.records) < 2 or not scored:
        return None
    sets = [name for name, _, _ in evidence.splits["search"].parts]
    pairs = list(combinations(range(len(sets)), 2))
    figures = {
        f"pareto-{first}-{second}": _figure(evidence, scored, (first, second), sets)
        for first, second in pairs[:_MOST_PAIRS]
    }
    before = (
        "A trial is on the front if no other is better on one set and at least as good on all others. Lines are 95% "
        "intervals on the search split, by which the front was found."
    )
    left_out = len(pairs) - len(figures)
    after = f"{left_out} further pairs of sets are left out." if left_out > 0 else ""
    return figure_section("pareto", "Pareto front", figures, before, after, beside=True)


def _figure(
    evidence: SearchEvidence, scored: Sequence[TrialRecord], pair: tuple[int, int], sets: Sequence[str]
) -> go.Figure:
    import plotly.graph_objects as go

    best = front(evidence.records)
    on_front = [record for record in scored if record.kind == "trial" and record.number in best]
    others = [record for record in scored if record.kind == "trial" and record.number not in best]
    figure = go.Figure()
    series = (
        ("other trials", others, {"color": LIGHT["grey"], "size": 6}),
        ("references", [it for it in scored if it.kind != "trial"], {"color": LIGHT["orange"], "symbol": "square"}),
        ("Pareto front", on_front, {"color": LIGHT["blue"], "size": 9}),
    )
    for name, records, marker in series:
        bars = _bars(evidence, records, pair, str(marker["color"])) if name == "Pareto front" else {}
        x, y = ([record.search.scores[place] for record in records] for place in pair)
        text = [_told(evidence, record, sets) for record in records]
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, hovertext=text, hoverinfo="text", **bars)
        )
    first, second = (as_text(shorten(sets[place], LABEL_WIDTH)) for place in pair)
    figure.update_layout(
        xaxis=percent_axis(first, zeroline=False),
        yaxis=percent_axis(second, zeroline=False),
        legend=BELOW,
        margin={"t": 10, "r": 20},
    )
    return figure


def intervals_of_sets(evidence: SearchEvidence, record: TrialRecord) -> list[Interval]:
    """Return the 95% interval of a model's score on each set of the search split."""
    return [interval([group]) for group in evidence.splits["search"].groups(record.search.outcomes)]


def _bars(
    evidence: SearchEvidence, records: Sequence[TrialRecord], pair: tuple[int, int], colour: str
) -> dict[str, dict[str, Any]]:
    bounds = [intervals_of_sets(evidence, record) for record in records]
    found = {}
    for axis, place in zip(("error_x", "error_y"), pair, strict=True):
        scores = [record.search.scores[place] for record in records]
        found[axis] = error_bars(scores, [each[place] for each in bounds], colour, thickness=0.8, width=0)
    return found


def _told(evidence: SearchEvidence, record: TrialRecord, sets: Sequence[str]) -> str:
    names = parents_of(evidence.board, LABEL_WIDTH)
    scores = (
        f"{as_text(shorten(name, LABEL_WIDTH))} {score:.1%}"
        for name, score in zip(sets, record.search.scores, strict=True)
    )
    return "<br>".join([as_text(displayed_name(record, names)), *scores])
