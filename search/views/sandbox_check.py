"""What `merge-search check` found: the layers of the sandbox, and the attempts to break out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evaluation.sandbox.isolation import Isolation, SandboxLayer, remedy
from search.views.table import plain_table

if TYPE_CHECKING:
    from rich.table import Table


def isolation_tables(isolation: Isolation) -> tuple[Table, Table]:
    """Return a table of the layers, and one of the attempts."""
    layers = plain_table("layer", "state", "")
    for layer in isolation.layers:
        layers.add_row(layer.name, _state(layer.active, "active", "missing"), _about(layer))
    attempts = plain_table("a program that", "is")
    for attempt in isolation.refused:
        attempts.add_row(attempt, _state(True, "refused", ""))
    for attempt in isolation.breaches:
        attempts.add_row(attempt, _state(False, "", "not refused"))
    return layers, attempts


def isolation_data(isolation: Isolation) -> Mapping[str, object]:
    """Return the layers and the attempts as plain data."""
    return {
        "enough": not isolation.shortfall,
        "layers": [{"name": it.name, "active": it.active, "detail": _about(it)} for it in isolation.layers],
        "attempts": dict.fromkeys(isolation.refused, "refused") | dict.fromkeys(isolation.breaches, "not refused"),
    }


def _about(layer: SandboxLayer) -> str:
    if layer.active:
        return layer.detail
    return "; ".join(filter(None, [layer.detail, remedy(layer.name)]))


def _state(good: bool, yes: str, no: str) -> str:
    return f"[green]{yes}[/]" if good else f"[red]{no}[/]"
