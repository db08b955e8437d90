"""The history of a search: every trial's score, the best so far, and the parents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evaluation.scoring import Interval, interval
from search.board.names import LABEL_WIDTH, displayed_name
from search.board.ranking import merit
from search.views.report.colours import LIGHT, SERIES, colour_of, source_of
from search.views.report.figures import BELOW, as_text, error_bars, figure_section, percent_axis
from search.views.table import parents_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from search.evidence import SearchEvidence
    from search.study.record import SplitName, TrialRecord
    from search.views.report.section import Section

_SMALL = 200  # up to this many points are drawn large


def history(evidence: SearchEvidence) -> Section | None:
    """Return the section with the history; None before the first trial is over."""
    trials = [record for record in evidence.trials if record.is_over]
    if not trials:
        return None
    import plotly.graph_objects as go

    figure = go.Figure()
    scored = [record for record in trials if record.search.score is not None]
    firsts = list(records_so_far(scored))
    last = max(trials[-1].number, trials[0].number + 1)  # so that lines have a length
    if firsts:
        _add_best(figure, evidence, firsts, last)
    for source in dict.fromkeys(map(source_of, scored)):
        _add_points(figure, source, [record for record in scored if source_of(record) == source])
    _add_lost(figure, trials, min((record.search.score or 0.0 for record in scored), default=0.0))
    _add_reported(figure, evidence, scored)
    _add_references(figure, evidence, (trials[0].number, last))
    figure.update_layout(
        xaxis={"title": {"text": "trial"}, "zeroline": False, "tickformat": "d", **({"dtick": 1} if last < 12 else {})},
        yaxis=percent_axis("score on the search split", zeroline=False),
        legend=BELOW,
        margin={"t": 20, "r": 20},
        hovermode="closest",
    )
    band = "The band is the 95% interval of the best trial so far. It was chosen by these scores, so they flatter it."
    return figure_section("history", "History", {"history": figure}, after=band if firsts else "", history=520)


def records_so_far(scored: Sequence[TrialRecord]) -> Iterator[TrialRecord]:
    """Yield each trial that was the best one when it was over."""
    best: TrialRecord | None = None
    for record in scored:
        if best is None or merit(record) > merit(best):
            best = record
            yield record


def interval_of(evidence: SearchEvidence, record: TrialRecord, split: SplitName) -> Interval:
    """Return the 95% interval of a model's score on a split."""
    return interval(evidence.splits[split].groups(record.on(split).outcomes))


def shown_trial(record: TrialRecord) -> str:
    """Return the text that is shown at a trial's point."""
    score, report = record.search.score, record.on("report").score
    lines = [f"trial {record.number} ({as_text(source_of(record))})"]
    lines += [f"search split {score:.1%}"] if score is not None else [record.search.state]
    lines += [f"report split {report:.1%}"] if report is not None else []
    return "<br>".join(lines)


def _add_best(figure: go.Figure, evidence: SearchEvidence, firsts: Sequence[TrialRecord], last: int) -> None:
    """Add a step for each trial that was the best so far, with its interval as a band."""
    import plotly.graph_objects as go

    bounds = [interval_of(evidence, record, "search") for record in firsts]
    places = [record.number for record in firsts] + [last]
    scores = [record.search.score for record in firsts]
    lows, highs = ([each[side] for each in bounds] for side in (0, 1))
    edge = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(go.Scatter(x=places, y=[*lows, lows[-1]], **edge))
    band = {"fill": "tonexty", "fillcolor": LIGHT["band"]}
    figure.add_trace(go.Scatter(x=places, y=[*highs, highs[-1]], **edge, **band))
    line = {"color": LIGHT["green"], "width": 2, "shape": "hv"}
    figure.add_trace(
        go.Scatter(x=places, y=[*scores, scores[-1]], mode="lines", line=line, name="best so far", hoverinfo="skip")
    )


def _add_points(figure: go.Figure, source: str, records: Sequence[TrialRecord]) -> None:
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=[record.number for record in records],
            y=[record.search.score for record in records],
            mode="markers",
            name=source,
            marker={"color": colour_of(source), "size": 8 if len(records) <= _SMALL else 5},
            hovertext=[shown_trial(record) for record in records],
            hoverinfo="text",
        )
    )


def _add_lost(figure: go.Figure, trials: Sequence[TrialRecord], level: float) -> None:
    """Add the trials without a score, below all others."""
    import plotly.graph_objects as go

    for state, symbol in (("pruned", "line-ns-open"), ("failed", "x")):
        lost = [record for record in trials if record.search.state == state]
        if lost:
            marker = {"color": LIGHT["red"] if state == "failed" else LIGHT["grey"], "symbol": symbol, "size": 7}
            reasons = [as_text((each.search.error or "").partition("\n")[0][:120]) for each in lost]
            text = [f"{shown_trial(each)}<br>{reason}" for each, reason in zip(lost, reasons, strict=True)]
            figure.add_trace(
                go.Scatter(
                    x=[record.number for record in lost], y=[max(level - 0.03, 0.0)] * len(lost), mode="markers",
                    name=state, marker=marker, hovertext=text, hoverinfo="text",
                )
            )  # fmt: skip


def _add_reported(figure: go.Figure, evidence: SearchEvidence, scored: Sequence[TrialRecord]) -> None:
    import plotly.graph_objects as go

    reported = [record for record in scored if record.on("report").score is not None]
    if not reported:
        return
    scores = [record.on("report").score or 0.0 for record in reported]
    bounds = [interval_of(evidence, record, "report") for record in reported]
    figure.add_trace(
        go.Scatter(
            x=[record.number for record in reported],
            y=scores,
            mode="markers",
            name="on the report split [95%]",
            marker={"symbol": "diamond", "size": 9, "color": LIGHT["text"]},
            error_y=error_bars(scores, bounds, LIGHT["text"]),
            hovertext=[shown_trial(record) for record in reported],
            hoverinfo="text",
        )
    )


def _add_references(figure: go.Figure, evidence: SearchEvidence, ends: tuple[int, int]) -> None:
    """Add a line for each parent and the average."""
    import plotly.graph_objects as go

    names = parents_of(evidence.board, LABEL_WIDTH)
    scored = [record for record in evidence.board.references if record.search.score is not None]
    for place, record in enumerate(scored):
        score = record.search.score or 0.0
        name = as_text(f"{displayed_name(record, names)} {score:.1%}")
        line = {
            "color": LIGHT[SERIES[place % len(SERIES)]],
            "width": 1.3,
            "dash": "dot" if record.kind == "average" else "dash",
        }
        figure.add_trace(
            go.Scatter(x=ends, y=[score, score], mode="lines", name=name, line=line, hovertext=name, hoverinfo="text")
        )
