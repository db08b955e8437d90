"""The colours of the page, by name, in light and in dark.

Figures are made with the light ones, and the page's script replaces them by the dark ones; so all light ones differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from search.study.record import ASCENT, TAKEN_OVER, WARM_START, TrialRecord

COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "page": ("#ffffff", "#12161c"),
    "panel": ("#f5f6f8", "#1b212a"),
    "text": ("#1c2430", "#e5e9ef"),
    "soft": ("#5a6675", "#9ba7b6"),
    "line": ("#d9dee5", "#333c48"),
    "link": ("#0b5cad", "#7cb7f5"),
    "accent": ("#0b5cae", "#7cb7f5"),
    "good": ("#1a7f45", "#5fce8b"),
    "bad": ("#b3261e", "#ff8a80"),
    "warn": ("#8a5a00", "#e8b45c"),
    "blue": ("#2a6fbb", "#6fb0f0"),
    "orange": ("#d9700a", "#f5a356"),
    "green": ("#2c8a4b", "#69c98a"),
    "purple": ("#8b4fb5", "#c396e8"),
    "red": ("#c8372d", "#f07f76"),
    "teal": ("#12858d", "#56c3ca"),
    "brown": ("#87603c", "#c09a74"),
    "pink": ("#cc4c93", "#ee93c3"),
    "grey": ("#7a8594", "#a0abb9"),
    "band": ("rgba(44,138,75,0.16)", "rgba(105,201,138,0.2)"),
}
"""Each colour in light and in dark; CSS refers to it as ``var(--blue)``."""
LIGHT: Final = {name: light for name, (light, _) in COLOURS.items()}
SERIES: Final = ("blue", "orange", "green", "purple", "red", "teal", "brown", "pink")
"""The names of the colours of series, in order."""
_OF_SOURCE: Final = {ASCENT: LIGHT["orange"], WARM_START: LIGHT["purple"], TAKEN_OVER: LIGHT["teal"]}


def source_of(record: TrialRecord) -> str:
    """Return the source of a trial's parameters: a sampler's name, ``ascent``, ``warm start`` or ``taken over``."""
    return record.proposed_by.partition(":")[0] or "unknown"


def colour_of(source: str) -> str:
    """Return the colour of a source."""
    return _OF_SOURCE.get(source, LIGHT["blue"])
