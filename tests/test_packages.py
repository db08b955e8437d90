"""The packages: one direction of imports; no two files and no two classes of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for package in ("merging", "evaluation", "search") for file in (ROOT / package).rglob("*.py")]
# Names that Python wants, and the exceptions of each package.
SHARED = {"__init__.py", "__main__.py", "errors.py"}
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


@pytest.mark.parametrize(
    ("package", "unknown"),
    [("merging", {"search", "evaluation", "optuna"}), ("evaluation", {"search", "merging", "optuna"})],
)
def test_merging_and_evaluation_know_neither_each_other_nor_the_search(package: str, unknown: set[str]) -> None:
    trees = {file: tree for file, tree in TREES.items() if file.is_relative_to(ROOT / package)}
    assert {file.name: found for file, tree in trees.items() if (found := imported(tree) & unknown)} == {}


def test_only_what_shows_a_search_knows_its_views() -> None:
    found = {file for file, tree in TREES.items() if any(name.startswith("search.views") for name in modules(tree))}
    folders = {file.relative_to(ROOT / "search").parts[0] for file in found}
    assert folders == {"views", "cli", "serving", "callbacks"}


def imported(tree: ast.AST) -> set[str]:
    """Return the packages that a file imports."""
    return {name.partition(".")[0] for name in modules(tree)}


def modules(tree: ast.AST) -> list[str]:
    """Return the modules that a file imports."""
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def test_no_two_files_have_one_name() -> None:
    assert repeated((file.name, file) for file in FILES if file.name not in SHARED) == {}


def test_no_two_classes_have_one_name() -> None:
    classes = (
        (node.name, file) for file, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert repeated(classes) == {}


def repeated(named: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the names that occur more than once, and where."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in named:
        found[name].append(str(file.relative_to(ROOT)))
    return {name: places for name, places in found.items() if len(places) > 1}
