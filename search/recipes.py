"""Recipe files for the commands that merge without a search.

Guarantees: the config of a search, or a recipe with a range, is refused, and the error names the command that takes it.
"""

from __future__ import annotations

from pathlib import Path

from merging import MergingError, Recipe, YamlReader
from merging.recipes.yaml_file import path_of
from search.errors import SearchError
from search.shell import shell_command
from search.space.ranges import range_places

_YAML = YamlReader("recipe", SearchError)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file. Raises MergingError or SearchError that names the file, the key and the remedy."""
    try:
        return Recipe.load(path)
    except MergingError:
        data = _YAML.parse(_YAML.text(path), str(path))
        if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
            running = shell_command("run", Path(path))
            raise SearchError(f"{path}: is the config of a search; `{running}` runs it") from None
        found = (keys for keys, node in range_places(data) if {"low", "high"} <= node.keys() or "choices" in node)
        if keys := next(found, None):
            raise SearchError(
                f"{path}: {path_of(keys)}: is a range, and only a search tries its values; write one value, or put "
                "the recipe into a config, under the key recipe, for `merge-search run`"
            ) from None
        raise
