"""What figures have in common: they are made with plotly, kept as plain data, and drawn by the page's script."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.views.report.section import Section, rendered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from evaluation.scoring import Interval

BELOW = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.18, "yanchor": "top"}
"""A legend below the figure, where any number of entries has room."""


def as_text(text: str) -> str:
    """Return a text as a figure shows it: plotly takes some HTML in names and labels."""
    return html.escape(text, quote=False)


def figure_data(figure: go.Figure) -> dict[str, Any]:
    """Return a figure as JSON has it, without plotly's default template: the page has its own colours."""
    figure.update_layout(template=None)
    found: dict[str, Any] = json.loads(figure.to_json(engine="json"))
    found["layout"].pop("template", None)
    return found


def figure_section(
    key: str,
    title: str,
    figures: dict[str, go.Figure],
    before: str = "",
    after: str = "",
    *,
    beside: bool = False,
    least: int = 0,
    **heights: int,
) -> Section:
    """Return a section of some figures, with a sentence before and after.

    Args:
        key, title: see `Section`.
        figures: the figures, by name.
        before, after: sentences.
        beside: whether figures are placed side by side if there is room.
        least: the least width in pixels; a narrower window scrolls.
        heights: the heights of figures in pixels, by name.
    """
    text = rendered(
        "figures.html", names=list(figures), heights=heights, before=before, after=after, beside=beside, least=least
    )
    return Section(key, title, text, {"figures": {name: figure_data(figure) for name, figure in figures.items()}})


def error_bars(scores: Sequence[float], bounds: Sequence[Interval], colour: str, **more: Any) -> dict[str, Any]:
    """Return the bars of some scores, from the low to the high end of their intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - score for score, (_, high) in zip(scores, bounds, strict=True)],
        "arrayminus": [score - low for score, (low, _) in zip(scores, bounds, strict=True)],
        "color": colour,
        "thickness": 1,
        **more,
    }


def percent_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis of scores."""
    return {"title": {"text": title}, "tickformat": ".0%", **more}
