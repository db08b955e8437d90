"""Names: what models, trials and searched parameters are called, the same on every screen.

models[0].parameters.weight[0], models[0].parameters.weight[1]  ->  text: weight 0.87 0.05
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from merging import parts_of, short_names
from search.errors import SearchError
from search.study.record import Parameters, TrialRecord

LABEL_WIDTH = 24
"""The greatest width of a model's name in a line of parameters."""
NAME_WIDTH = 36
"""The greatest width of a name on a line of its own."""

# From here on, decimals are not shown.
_LARGE = 1000
# Keys of a recipe that a parameter's name does not need.
_NEEDLESS = ("models", "modules", "slices", "sources", "parameters", "value")
_PART = re.compile(r"[^.\[\]]+")


def record_name(record: TrialRecord) -> str:
    """Return the full name of a record: ``trial 7``, the reference of a parent, or ``average``."""
    return f"trial {record.number}" if record.kind == "trial" else record.name


def displayed_name(record: TrialRecord, names: Mapping[str, str]) -> str:
    """Return a record's name on screen: a parent's from `names`, which has them by reference; else its full name."""
    return names.get(record.name, record.name) if record.kind == "parent" else record_name(record)


def find_record(records: Iterable[TrialRecord], called: str, where: object) -> TrialRecord:
    """Return the record that a user names: a trial by its number, a parent by its name, or the average.

    A parent is known by its reference, and by its short name, as on the leaderboard.

    Args:
        records: the records of a search.
        called: the name.
        where: the source of the records, for the error.

    Raises:
        SearchError: no record has that name, or its scoring is not over.
    """
    known = sorted(records, key=lambda record: record.kind != "trial")
    short = short_names(_model(record.recipe) for record in known if record.kind == "parent")
    for record in known:
        shorter = str(record.number) if record.kind == "trial" else short.get(record.name)
        if called in (record_name(record), shorter):
            if record.is_over:
                return record
            raise SearchError(f"{where}: {record_name(record)} is not over yet")
    last = max((record.number for record in known if record.kind == "trial" and record.is_over), default=None)
    over = "no trial is over yet" if last is None else f"the last trial that is over is {last}"
    parents = f"; the parents are {', '.join(short.values())}" if short else ""
    raise SearchError(f"{where}: has no trial or parent {called}; {over}{parents}")


def parent_names(recipes: Iterable[Mapping[str, object]], width: int) -> dict[str, str]:
    """Return a name of at most `width` for each parent, by its reference; no two are alike.

    Args:
        recipes: each parent as a recipe of its own, as plain data.
        width: the width of the longest name, in terminal cells.
    """
    names = short_names(map(_model, recipes))
    short = _shortened(names.values(), width)
    return {reference: short[name] for reference, name in names.items()}


def parameter_lines(
    parameters: Parameters, recipe: Mapping[str, object], names: Mapping[str, str], width: int
) -> list[str]:
    """Return the searched parameters of a recipe in lines of at most `width`, unless a single entry is wider.

    Args:
        parameters: the parameters, by the path of their key.
        recipe: the recipe as plain data; empty if the parameters make no valid one.
        names: the names of models, by their reference.
        width: the width of a line, in terminal cells.
    """
    entries: dict[tuple[str, str], list[str]] = {}
    for key, value in parameters.items():
        entries.setdefault(parameter_name(key, recipe, names), []).append(shown_value(value, names))
    groups: dict[str, list[str]] = {}
    for (label, word), values in entries.items():
        # An entry cannot be broken, so that lines end between entries.
        groups.setdefault(label, []).append("\N{NO-BREAK SPACE}".join([word, *values]))
    lines = [f"{label}: {', '.join(found)}" if label else ", ".join(found) for label, found in groups.items()]
    if len(one := "  ".join(lines)) <= width:
        return [one] if one else []
    return [part for line in lines for part in _wrapped(line, width)]


def parameter_name(key: str, recipe: Mapping[str, object], names: Mapping[str, str]) -> tuple[str, str]:
    """Return the model that a parameter belongs to, and its word there: ("text", "weight").

    Args:
        key: the path of its key.
        recipe: the recipe that it belongs to, as plain data.
        names: the names of models, by their reference.
    """
    node: object = recipe
    labels: list[str] = []
    words = ""
    for part in _PART.findall(key):
        if isinstance(node, list):
            # The config may give a single filter without the list that a recipe has around it.
            index = int(part) if part.isdigit() else 0
            node = node[index] if index < len(node) else None  # only in a damaged record
            labels += _label(node, index, names)
            words += f"({node['filter']})" if isinstance(node, dict) and node.get("filter") else ""
        if not part.isdigit():
            node = node.get(part) if isinstance(node, Mapping) else None
            words += "" if part in _NEEDLESS else f".{part}" if words else part
    return " ".join(labels), words or key.rpartition(".")[2]


def shown_value(value: object, names: Mapping[str, str]) -> str:
    """Return the text of a number or a choice, with the names of models instead of their references."""
    if isinstance(value, float):
        return f"{value:.2f}" if 0.01 <= abs(value) < _LARGE or not value else f"{value:.3g}"
    if not isinstance(value, str):
        return str(value)
    if value in names:
        return names[value]
    # A choice that is neither a text nor a number is JSON.
    quoted = {json.dumps(reference, ensure_ascii=False): f'"{name}"' for reference, name in names.items()}
    return re.sub("|".join(map(re.escape, quoted)) or "$^", lambda found: quoted[found[0]], value)


def shorten(name: str, width: int) -> str:
    """Return a name of at most `width`: its beginning and its end, which tell fine-tunes of one model apart."""
    if cell_len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{_fitting(name, width - 1 - end)}…{_fitting(name[::-1], end)[::-1]}"


def _model(recipe: Mapping[str, Any]) -> object:
    """Return the only model of a recipe, as plain data."""
    return recipe["models"][0]["model"]


def _label(node: object, index: int, names: Mapping[str, str]) -> list[str]:
    if isinstance(node, dict) and "sources" in node:
        return [f"slice {index}"]
    if isinstance(node, dict) and "model" in node:
        reference = "+".join(parts_of(node["model"]))
        return [names.get(reference) or shorten(reference, LABEL_WIDTH)]
    return []


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name shortened to `width`, no two alike: if both ends are alike, the part that differs is shown."""
    every = dict.fromkeys(names)
    short = {name: shorten(name, width) for name in every}
    for alike in [[each for each in every if short[each] == found] for found in set(short.values())]:
        if len(alike) > 1:
            short |= {name: _difference(name, alike, width) for name in alike}
    if len(set(short.values())) == len(short):
        return short
    return {name: f"{place}:{shorten(name, width - len(f'{place}:'))}" for place, name in enumerate(every, start=1)}


def _difference(name: str, alike: Sequence[str], width: int) -> str:
    """Return the part in which a name differs from those that are alike at both ends, with some text before it."""
    begin = _common(alike)
    end = len(name) - _common([each[begin:][::-1] for each in alike])
    before = _fitting(name[:begin][::-1], max(width - 2 - cell_len(name[begin:end]), 0))[::-1]
    return f"…{before}{_fitting(name[begin:end], width - 2)}…"


def _common(texts: Sequence[str]) -> int:
    """Return the length of the texts' common beginning."""
    places = enumerate(zip(*texts, strict=False))
    return next((place for place, signs in places if len(set(signs)) > 1), min(map(len, texts)))


def _fitting(text: str, width: int) -> str:
    """Return the longest beginning of a text that fits into `width`; a character may be two cells wide, or none."""
    return next(text[:length] for length in range(len(text), -1, -1) if cell_len(text[:length]) <= width)
