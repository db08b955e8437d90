"""References: how a recipe names a parent. A folder or a hub id (with @revision), and after a "+" a LoRA adapter.

Guarantees: a folder that exists under its literal name is that folder, whatever characters its name holds. Only this
file decides what a parent is called on screen, and only from the recipe's plain data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

# An owner and a name, as the hub allows them, and perhaps a revision.
_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*(@[^\s~^:?*\[\\]+)?")


def _exists(part: str) -> bool:
    return bool(part) and Path(part).expanduser().exists()


def split_reference(reference: str, exists: Callable[[str], bool] = _exists) -> tuple[str, str | None]:
    """Return the model and the adapter (or None) that a reference names; a "+" in a path that exists is part of it."""
    if "+" not in reference or exists(reference):
        return reference, None
    splits = [(reference[:at], reference[at + 1 :]) for at, sign in enumerate(reference) if sign == "+"]
    return max(splits, key=lambda parts: sum(map(exists, parts)))


def missing_part(reference: str) -> str | None:
    """Return the part of a reference that neither exists here nor can be a hub id, or None."""
    parts = [part for part in split_reference(reference) if part is not None]
    return next((part for part in parts if not _exists(part) and not is_hub_id(part)), None)


def parts_named(reference: object, known: Container[str]) -> list[str]:
    """Return the parts of a reference (a model and perhaps an adapter) if all of them are known; else an empty list."""
    if not isinstance(reference, str):
        return []
    if reference in known:
        return [reference]
    halves = [[reference[:at], reference[at + 1 :]] for at, sign in enumerate(reference) if sign == "+"]
    return next((pair for pair in halves if all(half in known for half in pair)), [])


def renamed(node: object, names: Mapping[str, str]) -> Any:
    """Return plain data, such as a recipe, with its models and files renamed."""
    if isinstance(node, Mapping):  # a record's recipe need not be a dict
        return {key: renamed(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(item, names) for item in node]
    return "+".join(names[part] for part in parts_named(node, names)) or node


def is_hub_id(part: str) -> bool:
    """Whether the name of a model or adapter that is not a local folder may be one on the hub."""
    return _HUB_ID.fullmatch(part) is not None


def parts_of(plain: object) -> tuple[str, ...]:
    """Return the model and, if there is one, the adapter of a reference in plain data; it is "MODEL+ADAPTER".

    Plain data spells out a path that contains a "+" ({path: a+b}), so this need not look at the disk.
    """
    if isinstance(plain, Mapping):
        return tuple(_text(plain[key]) for key in ("model", "lora") if plain.get(key) is not None)
    return tuple(part for part in str(plain).partition("+")[::2] if part)


def _text(path: object) -> str:
    if not isinstance(path, Mapping):
        return str(path)
    revision = path.get("revision")
    return f"{path['path']}@{revision}" if revision else str(path["path"])


def short_names(plain: Iterable[object]) -> dict[str, str]:
    """Return short names of models: the last parts of their paths or hub ids, as many as tell them apart.

    Args:
        plain: references in a recipe's plain data.

    Returns:
        The names by reference. Characters that do not print, or reverse a line, are escaped.
    """
    parts = {"+".join(found): found for found in map(parts_of, plain)}
    depths = dict.fromkeys(parts, 1)
    while True:
        names = {reference: _last(parts[reference], depth) for reference, depth in depths.items()}
        counts = Counter(names.values())
        alike = {name for name in names if counts[names[name]] > 1 and names[name] != printable(name)}
        if not alike:
            return names
        depths = {reference: depth + (reference in alike) for reference, depth in depths.items()}


def _last(parts: tuple[str, ...], depth: int) -> str:
    return printable("+".join(_end(Path(part), depth) or part for part in parts))


def _end(path: Path, depth: int) -> str:
    """Return the last `depth` parts of a path that has more of them and does not end in ".."; else ""."""
    return "/".join(path.parts[-depth:]) if len(path.parts) > depth and path.name != ".." else ""


def printable(text: str) -> str:
    """Return a text with escapes for the characters that do not print, or that reverse a line."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
