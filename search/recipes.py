"""A recipe that is merged as it stands, without a search.

Guarantees: what belongs to a search (its config, or a range in a recipe) is told to be that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merging import MergingError, Recipe, YamlReader
from search.errors import SearchError

_YAML = YamlReader("recipe", SearchError)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file. Raises MergingError or SearchError that names the file, the key and the remedy."""
    try:
        return Recipe.load(path)
    except MergingError:
        data = _YAML.parse(_YAML.text(path), str(path))
        if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
            raise SearchError(f"{path}: is the config of a search; `merge-search run {path}` runs it") from None
        if key := next(_ranges(data, ""), None):
            raise SearchError(
                f"{path}: {key}: is a range, and only a search tries its values; write one value, or put the recipe "
                "into a config, under the key recipe, for `merge-search run`"
            ) from None
        raise


def _ranges(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict) and ({"low", "high"} <= node.keys() or "choices" in node):
        yield key
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _ranges(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _ranges(value, f"{key}[{index}]")
