"""Which searched parameters decided whether a trial was among the best, and how much of that may be chance."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from search.board.names import LABEL_WIDTH, parameter_name
from search.counts import counted
from search.study.record import TrialRecord
from search.views.report.colours import LIGHT
from search.views.report.figures import as_text, figure_section
from search.views.table import parents_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from search.evidence import SearchEvidence
    from search.views.report.section import Section

LEAST_TRIALS: Final = 20
"""With fewer trials than this, no importance can be told from chance."""
_SHUFFLES: Final = 20


@dataclass(frozen=True, slots=True)
class Importance:
    """How much a parameter decided.

    Attributes:
        parameter: the path of its key.
        share: its share of the importance of all parameters.
        chance: the largest share that it had with shuffled scores; a share that does not exceed this may be chance.
    """

    parameter: str
    share: float
    chance: float


def importances(evidence: SearchEvidence) -> Section | None:
    """Return the section with the importances; None if there are too few trials, or a single parameter."""
    scored = [record for record in evidence.trials if record.search.score is not None]
    if evidence.space is None or len(scored) < LEAST_TRIALS:
        return None
    found = shares(scored, evidence.space.distributions())
    if len(found) < 2:
        return None
    import plotly.graph_objects as go

    named = parameter_labels(evidence)
    found = sorted(found, key=lambda each: each.share)
    labels = [as_text(named[each.parameter]) for each in found]
    is_more = [each.share > each.chance for each in found]
    figure = go.Figure()
    figure.add_trace(
        go.Bar(
            x=[each.share for each in found],
            y=labels,
            orientation="h",
            marker={"color": [LIGHT["blue"] if more else LIGHT["line"] for more in is_more]},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    marker = {"symbol": "line-ns-open", "size": 14, "color": LIGHT["red"], "line": {"width": 2}}
    chances = [each.chance for each in found]
    hover = "%{y}: up to %{x:.1%} by chance<extra></extra>"
    figure.add_trace(go.Scatter(x=chances, y=labels, mode="markers", marker=marker, hovertemplate=hover))
    figure.update_layout(
        showlegend=False,
        xaxis={"title": {"text": "share of the importance (PED-ANOVA)"}, "tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"type": "category", "range": [-0.5, len(found) - 0.5]},
        margin={"t": 10, "r": 20, "l": 10},
        bargap=0.35,
    )
    count = sum(is_more)
    told = f"Of {counted(len(found), 'parameter')} {count or 'none'} decided more than chance explains."
    before = (
        "How well each parameter tells the best tenth of the trials from all. Red marks are the largest shares that "
        f"{_SHUFFLES} shuffles of the scores gave; a grey bar does not exceed its mark. {told}"
    )
    return figure_section(
        "importances",
        "Parameter importances",
        {"importances": figure},
        before,
        least=560,
        importances=90 + 26 * len(found),
    )


def shares(scored: Sequence[TrialRecord], distributions: Mapping[str, BaseDistribution]) -> list[Importance]:
    """Return the importance of each parameter of trials with a score, and how much of it may be chance.

    Optuna's PED-ANOVA (arXiv:2304.10255), which needs no random forest.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from search.study.projection import Projection, quiet

    scores = [record.search.score or 0.0 for record in scored]
    if len(set(scores)) < 2:
        return []
    draw = random.Random(0)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental
        projection = Projection(distributions)
        projection.update([replace(each, search=replace(each.search, scores=(0.0,))) for each in scored])
        study = projection.study

        def of(values: Sequence[float]) -> dict[str, float]:
            evaluator = PedAnovaImportanceEvaluator()
            return get_param_importances(study, evaluator=evaluator, target=lambda trial: values[trial.number])

        own = of(scores)
        chances = [of(draw.sample(scores, len(scores))) for _ in range(_SHUFFLES)]
    return [Importance(name, share, max(each[name] for each in chances)) for name, share in own.items()]


def parameter_labels(evidence: SearchEvidence) -> dict[str, str]:
    """Return the displayed name of each searched parameter: ``text: weight 2`` is the second knot of a gradient."""
    names = parents_of(evidence.board, LABEL_WIDTH)
    keys = list(evidence.space.distributions()) if evidence.space else []
    recipe = next((record.recipe for record in evidence.trials if record.recipe), {})
    named = {key: parameter_name(key, recipe, names) for key in keys}
    several = [pair for pair in named.values() if list(named.values()).count(pair) > 1]
    labels, counts = {}, dict.fromkeys(named.values(), 0)
    for key, pair in named.items():
        counts[pair] += 1
        knot = f" {counts[pair]}" if pair in several else ""
        labels[key] = f"{': '.join(filter(None, pair))}{knot}"
    return labels
