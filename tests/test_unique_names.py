"""One name, one thing: no two files and no two classes of the packages have the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [file for package in ("merging", "evaluation", "search") for file in (ROOT / package).rglob("*.py")]
# Names that Python wants, and the exceptions of each package.
SHARED = {"__init__.py", "__main__.py", "errors.py"}


def test_no_two_files_have_one_name() -> None:
    assert repeated((file.name, file) for file in FILES if file.name not in SHARED) == {}


def test_no_two_classes_have_one_name() -> None:
    trees = ((file, ast.parse(file.read_text(encoding="utf-8"))) for file in FILES)
    classes = ((node.name, file) for file, tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert repeated(classes) == {}


def repeated(named: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the names that occur more than once, and where."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in named:
        found[name].append(str(file.relative_to(ROOT)))
    return {name: places for name, places in found.items() if len(places) > 1}
