"""Every merge method on every shape of model: small families of five architectures, and a recipe for each method.

What recipes have (gradients, filters, slices, the switches, negative weights) goes by architecture, so that every
method meets all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from merging import METHODS, ParentSet, Recipe
from merging.methods import Scope
from tests.merging.conftest import Family

Style = Literal["gradients", "filters", "slices", "switches", "negative weights"]

# What is particular about the model beside its name, and about the recipes that are run on it.
STYLES: dict[str, tuple[dict[str, object], Style]] = {
    "llama": ({}, "gradients"),
    "qwen2": ({"tied": True, "shards": True}, "filters"),
    "gpt_neox": ({}, "slices"),
    "gemma": ({"tied": True}, "switches"),
    "mixtral": ({}, "negative weights"),
}

# What a method is tried with, by parameter: for each input in turn.
_EACH: dict[Style, dict[str, list[object]]] = {
    "gradients": {
        "weight": [[0.2, 1.0], [0.9, 0.4, 0.1], 0.3],
        "density": [[0.9, 0.3], 0.5],
        "gamma": [[0, 0.2], 0.1],
        "scale": [[0.5, 1.2]],
    },
    "filters": {
        "weight": [[{"filter": "mlp", "value": 0.3}, {"value": 0.8}], 0.6, [{"value": 1.0}]],
        "density": [[{"filter": "q_proj", "value": 0.0}, {"filter": "norm", "value": 1}, {"value": 0.37}], 0.8],
        "gamma": [0.0, [{"filter": "mlp", "value": 0.4}, {"value": 0.02}]],
        "scale": [[{"filter": "mlp", "value": 0.3}, {"value": 1.0}]],
    },
    "slices": {"weight": [0.7, [0.1, 0.9], 0.4], "density": [0.6, [0.9, 0.2]], "scale": [0.9]},
    "switches": {"weight": [0.7, 0.5, 1.1], "density": [0.45, 0.7], "gamma": [0.1, 0.0]},
    "negative weights": {
        "weight": [-0.5, [0.9, 0.6], 0.8],
        "density": [0.5, 0.9],
        "gamma": [1.0, 0.3],
        "scale": [-1.0],
    },
}
# The same for the tensor.
_SHARED: dict[Style, dict[str, object]] = {
    "gradients": {"t": [0.0, 0.4, 1.0], "select_topk": [0.2, 0.9], "epsilon": 0.001, "r": [0, 2]},
    "filters": {
        "t": [{"filter": "mlp", "value": 0.3}, {"value": 0.7}],
        "select_topk": [{"filter": "norm", "value": 1.0}, {"filter": "o_proj", "value": 0.0}, {"value": 0.35}],
        "filter_wise": [{"filter": "mlp", "value": True}, {"value": False}],
        "nuslerp_flatten": [{"filter": "mlp", "value": False}, {"value": True}],
        "max_iter": 2,
    },
    "slices": {"t": 0.25, "nuslerp_flatten": False, "filter_wise": True, "tol": 0.01},
    "switches": {
        "t": 0.6,
        "normalize": True,
        "rescale": True,
        "lambda": 0.8,
        "normalize_weights": False,
        "eps": 0.001,
        "nuslerp_flatten": False,
        "nuslerp_row_wise": True,
        "select_topk": 0.5,
        "epsilon": 0.002,
        "alpha": 0.5,
        "r": 0.7,
    },
    "negative weights": {"t": 1.0, "int8_mask": True, "normalize": False, "lambda": -1.2},
}
# A distance of a fraction of these models' changes.
_NEARSWAP_T = {"t": [0.0005, 0.003]}


@dataclass(frozen=True)
class Zoo:
    """A family of one architecture, open."""

    architecture: str
    family: Family
    parents: ParentSet

    def recipe(self, method: str, dtype: str, random_masks: bool = False) -> str:
        """Return the recipe for a method on this architecture; unless with `random_masks` random methods keep all."""
        style = STYLES[self.architecture][1]
        data: dict[str, Any] = {"merge_method": method, "dtype": dtype}
        base, inputs = _models(method, style, self.family)
        if base:
            data["base_model"] = base
        parts = [
            {"model": model, "parameters": _own(method, style, index, random_masks)}
            for index, model in enumerate(inputs)
        ]
        if style == "slices":
            data["slices"] = [_slice(parts, base, 0, 1), _slice(parts[::-1], base, 1, 3)]
        else:
            data["models"] = parts
        data["parameters"] = _shared(method, style)
        return yaml.safe_dump(data, sort_keys=False)


def every_parent(family: Family) -> Recipe:
    """Return a recipe that names the whole family."""
    return Recipe.average([family.base, family.a, family.b])


def _models(method: str, style: Style, family: Family) -> tuple[str | None, list[str]]:
    most = METHODS[method].inputs[1]
    if method in ("nuslerp", "multislerp"):
        return (None if style in ("filters", "switches") else family.base), [family.a, family.b]
    if METHODS[method].base == "ignored":
        return None, [family.a, family.b, family.base][:most]
    return family.base, [family.a, family.b][: most - 1 if most else None]


def _own(method: str, style: Style, index: int, random_masks: bool) -> dict[str, object]:
    keys = [p.key for p in METHODS[method].parameters if p.scope is not Scope.SHARED]
    keeps_all = METHODS[method].random and not random_masks
    table = {key: values for key, values in _EACH[style].items() if not (key == "density" and keeps_all)}
    table["epsilon"] = [0.05, 0.04]
    return {key: table[key][index] for key in keys if key in table and index < len(table[key])}


def _shared(method: str, style: Style) -> dict[str, object]:
    table = _SHARED[style] | (_NEARSWAP_T if method == "nearswap" else {})
    keys = [p.key for p in METHODS[method].parameters if p.scope is Scope.SHARED]
    return {key: table[key] for key in keys if key in table}


def _slice(parts: list[dict[str, Any]], base: str | None, start: int, end: int) -> dict[str, Any]:
    sources = [part | {"layer_range": [start, end]} for part in parts]
    return {"sources": sources + ([{"model": base, "layer_range": [start, end]}] if base else [])}
