"""What trials take of each parent in each layer: densities, weights and the like, one panel per parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.board.names import LABEL_WIDTH
from search.views.report.colours import LIGHT, SERIES
from search.views.report.section import Section, rendered
from search.views.table import parents_of

if TYPE_CHECKING:
    from search.evidence import SearchEvidence
    from search.layer_values import Curve

_SHARED = "all parents"
# In the order of their colours.
_USUAL = ("weight", "density")


def layers(evidence: SearchEvidence) -> Section | None:
    """Return the section with the parameters of the winner, or a chosen trial, over the layers."""
    curves = {number: list(map(_drawn, _told(lines))) for number, lines in evidence.layers.curves.items()}
    curves = {number: lines for number, lines in curves.items() if lines}
    if not curves:
        return None
    names = parents_of(evidence.board, LABEL_WIDTH) | {"": _SHARED}
    parents = [record.name for record in evidence.records if record.kind == "parent"]
    models = _ordered([line["model"] for lines in curves.values() for line in lines], parents)
    keys = _ordered([line["parameter"] for lines in curves.values() for line in lines], _USUAL)
    colours = {key: SERIES[place % len(SERIES)] for place, key in enumerate(keys)}
    scores = {record.number: record.search.score for record in evidence.trials}
    winner = evidence.winner
    data = {
        "panels": [{"model": model, "name": names.get(model, model)} for model in models],
        "colours": {key: LIGHT[name] for key, name in colours.items()},
        "trials": {str(number): lines for number, lines in curves.items()},
        "winner": str(winner.number) if winner else None,
        "hasLayers": not evidence.layers.no_layers,
    }
    shown = [(number, f"trial {number}, {scores[number] or 0:.1%}") for number in curves]
    scored = sum(score is not None for score in scores.values())
    left_out = f"Only the best {len(shown)} of {scored} trials are kept here." if len(shown) < scored else ""
    html = rendered("layers.html", shown=shown, note=evidence.layers.no_layers, left_out=left_out, colours=colours)
    return Section("layers", "Parents over the layers", html, data, "layers.js")


def _told(lines: Sequence[Curve]) -> list[Curve]:
    """Return the curves worth showing: all those of single parents, and those of shared parameters that vary."""
    return [line for line in lines if line.model or len(set(line.values)) > 1]


def _drawn(line: Curve) -> dict[str, object]:
    ends = [end.removesuffix(".weight") for end in line.tensors]
    tensors = "" if line.is_whole else ends[0] if len(ends) == 1 else f"{ends[0]} and {len(ends) - 1} more"
    return {
        "model": line.model,
        "parameter": line.parameter,
        "tensors": tensors,
        "values": [None if value is None else round(value, 4) for value in line.values],
        "outside": [round(value, 4) for value in line.outside],
    }


def _ordered(found: Sequence[object], first: Sequence[str]) -> list[str]:
    """Return the distinct texts, the known ones first, in their order."""
    every = dict.fromkeys(map(str, found))
    return [*(each for each in first if each in every), *(each for each in every if each not in first)]
