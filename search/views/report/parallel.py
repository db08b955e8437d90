"""Parallel coordinates: every trial as a line over its parameters and its score, to be brushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.board.names import LABEL_WIDTH, shown_value
from search.board.ranking import merit
from search.views.report.colours import LIGHT
from search.views.report.figures import as_text
from search.views.report.importances import parameter_labels
from search.views.report.section import Section, rendered
from search.views.table import parents_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from search.evidence import SearchEvidence

_LEAST_TRIALS = 2
_LABEL = 18


def parallel(evidence: SearchEvidence) -> Section | None:
    """Return the section with the parallel coordinates; None before the second trial with a score."""
    scored = [record for record in evidence.trials if record.search.score is not None and record.parameters]
    if evidence.space is None or len(scored) < _LEAST_TRIALS:
        return None
    scored.sort(key=merit)  # the best are drawn last, above the others
    labels, names = parameter_labels(evidence), parents_of(evidence.board, LABEL_WIDTH)
    axes = [
        _axis(labels[name], [record.parameters.get(name) for record in scored], kind, names)
        for name, kind in evidence.space.distributions().items()
    ]
    scores = [record.search.score or 0.0 for record in scored]
    score = {"label": "score", "values": scores, "tickformat": ".0%"}
    data = {
        "numbers": [record.number for record in scored],
        "scores": scores,
        "axes": [score, *axes],
        "colours": [[0, LIGHT["line"]], [0.5, LIGHT["blue"]], [1, LIGHT["orange"]]],
    }
    return Section("parallel", "Parallel coordinates", rendered("parallel.html"), data, "parallel.js")


def _axis(label: str, values: Sequence[Any], kind: BaseDistribution, names: dict[str, str]) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    head = as_text(label if len(label) <= _LABEL else f"{label[: _LABEL // 2]}…{label[-_LABEL // 2 :]}")
    if isinstance(kind, CategoricalDistribution):
        places = {choice: place for place, choice in enumerate(kind.choices)}
        ticks = [as_text(shown_value(choice, names))[:_LABEL] for choice in kind.choices]
        return {
            "label": head, "values": [places.get(value, 0) for value in values], "range": [0, max(len(ticks) - 1, 1)],
            "tickvals": list(range(len(ticks))), "ticktext": ticks,
        }  # fmt: skip
    assert isinstance(kind, FloatDistribution | IntDistribution)
    return {"label": head, "values": values, "range": [kind.low, kind.high]}
