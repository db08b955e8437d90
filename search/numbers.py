"""Searched numbers as people read them: by the model that they are of, with the words of the recipe.

models[0].parameters.weight[0], models[0].parameters.weight[1]  ->  strings: weight 0.87 0.05
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from merging import parts_of, short_names
from search.progress import shorten, shortened

LABEL_WIDTH = 24
"""The most that a model's name takes of a line of numbers."""

# From here on the places after the point say nothing.
_LARGE = 1000
# Keys of a recipe that say nothing beside the others.
_NEEDLESS = ("models", "modules", "slices", "sources", "parameters", "value")
_PART = re.compile(r"[^.\[\]]+")


def parent_names(recipes: Iterable[Mapping[str, Any]], width: int) -> dict[str, str]:
    """Return what parents are called where there is room for so much, by their reference; no two alike.

    Args:
        recipes: those of the parents alone, as plain data.
        width: the most that a name may take.
    """
    names = short_names(recipe["models"][0]["model"] for recipe in recipes)
    short = shortened(names.values(), width)
    return {reference: short[name] for reference, name in names.items()}


def number_lines(
    numbers: Mapping[str, Any], recipe: Mapping[str, Any], names: Mapping[str, str], width: int
) -> list[str]:
    """Return the searched numbers of a recipe in lines of at most that width, where a single entry allows it.

    Args:
        numbers: by the path of their key.
        recipe: where they stand, as plain data; empty if they make none.
        names: what models are called here, by their reference.
        width: of a line.
    """
    entries: dict[tuple[str, str], list[str]] = {}
    for key, value in numbers.items():
        entries.setdefault(place_of(key, recipe, names), []).append(shown_value(value, names))
    groups: dict[str, list[str]] = {}
    for (label, word), values in entries.items():
        # Unbreakable inside an entry, so that a line ends between two.
        groups.setdefault(label, []).append("\N{NO-BREAK SPACE}".join([word, *values]))
    lines = [f"{label}: {', '.join(found)}" if label else ", ".join(found) for label, found in groups.items()]
    if len(one := "  ".join(lines)) <= width:
        return [one] if one else []
    return [part for line in lines for part in _wrapped(line, width)]


def place_of(key: str, recipe: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str]:
    """Return whose number it is, and which: ("strings", "weight").

    Args:
        key: the path of its key.
        recipe: where it stands, as plain data.
        names: what models are called, by their reference.
    """
    node: Any = recipe
    labels: list[str] = []
    words = ""
    for part in _PART.findall(key):
        if isinstance(node, list):
            # A single filter may stand in the config without the list that a recipe has around it.
            index = int(part) if part.isdigit() else 0
            node = node[index]
            labels += _label(node, index, names)
            words += f"({node['filter']})" if isinstance(node, dict) and node.get("filter") else ""
        if not part.isdigit():
            node = node.get(part) if isinstance(node, dict) else None
            words += "" if part in _NEEDLESS else f".{part}" if words else part
    return " ".join(labels), words or key.rpartition(".")[2]


def _label(node: object, index: int, names: Mapping[str, str]) -> list[str]:
    if isinstance(node, dict) and "sources" in node:
        return [f"slice {index}"]
    if isinstance(node, dict) and "model" in node:
        reference = "+".join(parts_of(node["model"]))
        return [names.get(reference) or shorten(reference, LABEL_WIDTH)]
    return []


def shown_value(value: object, names: Mapping[str, str]) -> str:
    """Return a number or a choice as people read it, with the names of models."""
    if isinstance(value, float):
        return f"{value:.2f}" if 0.01 <= abs(value) < _LARGE or not value else f"{value:.3g}"
    if not isinstance(value, str):
        return str(value)
    if value in names:
        return names[value]
    # A choice that is no word is JSON.
    quoted = {json.dumps(reference, ensure_ascii=False): f'"{name}"' for reference, name in names.items()}
    return re.sub("|".join(map(re.escape, quoted)) or "$^", lambda found: quoted[found[0]], value)


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
