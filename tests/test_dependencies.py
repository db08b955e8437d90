"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # the metadata of every package is read

ROOT = Path(__file__).parents[1]
PACKAGES = ("merging", "evaluation", "search")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {
    "vllm": "evaluation/generation/vllm_engine",
    "dashboard": "search/serving/dashboard.py",
    "mlflow": "search/callbacks/mlflow_tracker.py",
    "wandb": "search/callbacks/wandb_tracker.py",
}
"""Where each extra is imported, and nowhere else."""


def test_every_package_that_is_imported_is_declared() -> None:
    declared = names(PROJECT["dependencies"])
    found = {file: imports(file) - declared for file in sources(*PACKAGES)}
    for extra, place in OPTIONAL.items():
        there = {file for file in found if file.is_relative_to(ROOT / place)}
        of_extra = set().union(*(found.pop(file) for file in there))
        assert of_extra == names(PROJECT["optional-dependencies"][extra])
    assert {file: missing for file, missing in found.items() if missing} == {}


def test_every_package_that_the_tests_import_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = names([*PROJECT["dependencies"], *(each for extra in extras.values() for each in extra)])
    declared.add("evalplus")  # makes a table, tests/evaluation/evalplus_table.py, which is kept
    found = {file: imports(file) - declared for file in sources("tests")}
    assert {file: missing for file, missing in found.items() if missing} == {}


def test_every_dependency_is_imported() -> None:
    imported = set().union(*map(imports, sources(*PACKAGES)))
    for_others = {"cmaes", "jinja2"}  # Optuna's sampler; transformers' chat templates
    assert names(PROJECT["dependencies"]) - for_others <= imported


def test_accelerate_and_datasets_are_imported_by_the_functions_that_use_them() -> None:
    used = {"accelerate": {"merging/residency/placement.py"}, "datasets": {"evaluation/problems/hub.py"}}
    trees = {str(file.relative_to(ROOT)): tree(file) for file in sources(*PACKAGES)}
    for name, where in used.items():
        assert {file for file, found in trees.items() if name in imported(ast.walk(found))} == where
        assert {file for file, found in trees.items() if name in imported(found.body)} == set()


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in (ROOT / folder).rglob("*.py")]


distributions = cache(packages_distributions)  # it reads the files of all packages


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> set[str]:
    """Return the distributions that a file imports from, however deep in it."""
    ours = {*PACKAGES, "tests", "docs", "_typeshed", *sys.stdlib_module_names}  # the type checker has _typeshed
    return {normal(distributions().get(name, [name])[0]) for name in imported(ast.walk(tree(file))) if name not in ours}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    return {name.partition(".")[0] for node in nodes for name in _modules(node)}


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module


def names(requirements: Iterable[str]) -> set[str]:
    """Return the names of requirements, as packaging normalizes them."""
    return {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
