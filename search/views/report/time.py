"""Where the time goes: the phases of each trial, and what each worker did when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from search.board.names import LABEL_WIDTH, displayed_name
from search.counts import counted
from search.views.report.colours import LIGHT, SERIES
from search.views.report.figures import BELOW, as_text, figure_section
from search.views.table import parents_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from search.evidence import SearchEvidence
    from search.study.record import SplitName, TrialRecord
    from search.views.report.section import Section

_TOTAL, _REST = "total", "rest"
_SPLITS: tuple[SplitName, ...] = ("search", "report", "confirm")
_COLOURS = {
    "parents": LIGHT["purple"],
    "trials": LIGHT["blue"],
    "pruned": LIGHT["grey"],
    "failed": LIGHT["red"],
    "report split": LIGHT["green"],
    "confirmation": LIGHT["teal"],
}


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did for a while.

    Attributes:
        worker: its name.
        started, ended: in seconds since the epoch.
        what: a key of the legend.
        told: the text that is shown at the span.
    """

    worker: str
    started: float
    ended: float
    what: str
    told: str


def time(evidence: SearchEvidence) -> Section | None:
    """Return the section with phases and workers; None before any model is over."""
    found = list(spans(evidence))
    if not found:
        return None
    figures = {"workers": _workers(evidence, found)}
    trials = [record for record in evidence.trials if record.search.seconds.get(_TOTAL)]
    if trials:
        figures = {"phases": _phases(trials)} | figures
    before = f"Mean of {counted(len(trials), 'trial')}: {_means(trials)}." if trials else ""
    rows = len({span.worker for span in found})
    return figure_section("time", "Time", figures, before, _busy(found), phases=360, workers=150 + 34 * rows)


def spans(evidence: SearchEvidence) -> Iterator[Span]:
    """Yield what the workers did, as far as the records say: the last run of each model on each split."""
    names = parents_of(evidence.board, LABEL_WIDTH)
    for record in evidence.records:
        name = displayed_name(record, names)
        for split in _SPLITS:
            scoring = record.on(split)
            seconds = scoring.seconds.get(_TOTAL, 0.0)
            if scoring.started is None or not seconds:
                continue
            what = {"report": "report split", "confirm": "confirmation"}.get(split, "")
            what = what or (scoring.state if scoring.state in _COLOURS else "")
            what = what or ("trials" if record.kind == "trial" else "parents")
            told = f"{name}, {split} split: {seconds:.1f} s"
            yield Span(scoring.worker, scoring.started, scoring.started + seconds, what, told)


def phases(record: TrialRecord) -> dict[str, float]:
    """Return the seconds of each phase of a trial on the search split, and those of no phase."""
    own = {name: seconds for name, seconds in record.search.seconds.items() if name != _TOTAL}
    rest = record.search.seconds.get(_TOTAL, 0.0) - sum(own.values())
    return own | {_REST: max(rest, 0.0)}


def _phases(trials: Sequence[TrialRecord]) -> go.Figure:
    import plotly.graph_objects as go

    each = [phases(record) for record in trials]
    keys = [key for key in dict.fromkeys(key for found in each for key in found) if key != _REST] + [_REST]
    figure = go.Figure()
    for place, key in enumerate(keys):
        colour = LIGHT["grey"] if key == _REST else LIGHT[SERIES[place % len(SERIES)]]
        figure.add_trace(
            go.Bar(
                x=[record.number for record in trials],
                y=[found.get(key, 0.0) for found in each],
                name=key,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"trial %{{x}}, {as_text(key)}: %{{y:.2f}} s<extra></extra>",
            )
        )
    figure.update_layout(
        barmode="stack",
        bargap=0.1 if len(trials) < 100 else 0,
        xaxis={"title": {"text": "trial"}, "tickformat": "d", **({"dtick": 1} if len(trials) < 12 else {})},
        yaxis={"title": {"text": "seconds"}},
        legend=BELOW | {"y": -0.3},
        margin={"t": 10, "r": 20},
    )
    return figure


def _workers(evidence: SearchEvidence, found: Sequence[Span]) -> go.Figure:
    import plotly.graph_objects as go

    labels = worker_labels(evidence, found)
    figure = go.Figure()
    for what, colour in _COLOURS.items():
        own = [span for span in found if span.what == what]
        if own:
            figure.add_trace(
                go.Bar(
                    base=[datetime.fromtimestamp(span.started, UTC).isoformat() for span in own],
                    x=[1000 * (span.ended - span.started) for span in own],
                    y=[labels[span.worker] for span in own],
                    orientation="h",
                    name=what,
                    marker={"color": colour, "line": {"width": 0.5, "color": LIGHT["page"]}},
                    hovertext=[as_text(span.told) for span in own],
                    hoverinfo="text",
                )
            )
    figure.update_layout(
        barmode="overlay",
        # Slanted labels would reach into the title and the legend of a narrow figure.
        xaxis={"type": "date", "title": {"text": "time (UTC)"}, "tickangle": 0},
        yaxis={"type": "category", "autorange": "reversed"},
        legend=BELOW | {"y": -0.35},
        margin={"t": 10, "r": 20},
        bargap=0.3,
    )
    return figure


def worker_labels(evidence: SearchEvidence, found: Sequence[Span]) -> dict[str, str]:
    """Return the displayed names of the workers, in the order in which they began: ``worker 1 (host, cuda:0)``."""
    workers = dict.fromkeys(span.worker for span in sorted(found, key=lambda span: span.started))
    labels = {}
    for number, worker in enumerate(workers, start=1):
        place = evidence.workplaces.get(worker)
        where = ", ".join([place.host, *place.devices]) if place else ""
        labels[worker] = as_text(f"worker {number}" + (f" ({where})" if where else ""))
    return labels


def _means(trials: Sequence[TrialRecord]) -> str:
    each = [phases(record) for record in trials]
    keys = dict.fromkeys(key for found in each for key in found)
    means = {key: sum(found.get(key, 0.0) for found in each) / len(each) for key in keys}
    total = sum(means.values()) or 1.0
    return ", ".join(f"{key} {mean:.2f} s ({mean / total:.0%})" for key, mean in means.items())


def _busy(found: Sequence[Span]) -> str:
    """Return how much of their time the workers spent on models, in a sentence."""
    of_worker: dict[str, list[Span]] = {}
    for span in found:
        of_worker.setdefault(span.worker, []).append(span)
    lasted = sum(max(s.ended for s in own) - min(s.started for s in own) for own in of_worker.values())
    busy = sum(span.ended - span.started for span in found)
    if not lasted:
        return ""
    rest = "Between models they propose (the ascent computes gradients), load, and wait."
    return f"The workers spent {min(busy / lasted, 1):.0%} of their time on models. {rest}"
