"""How much there is to read: lines, files, statements, classes and functions of each package, now or at a commit.

python -m tests.benchmarks.size [COMMIT]
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("evaluation", "merging", "search")
COLUMNS = ("files", "lines", "statements", "classes", "functions", "public functions", "Any")


def sources(package: str, commit: str | None) -> Iterator[str]:
    """Yield the text of each Python file of a package."""
    if commit is None:
        yield from (file.read_text(encoding="utf-8") for file in sorted(Path(package).rglob("*.py")))
        return
    listed = _git("ls-tree", "-r", "--name-only", commit, f"{package}/")
    yield from (_git("show", f"{commit}:{name}") for name in listed.splitlines() if name.endswith(".py"))


def counts(texts: list[str]) -> list[int]:
    """Return the counts of `COLUMNS` over some files."""
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        len(texts),
        sum(text.count("\n") for text in texts),
        sum(isinstance(node, ast.stmt) for node in nodes),
        sum(isinstance(node, ast.ClassDef) for node in nodes),
        len(functions),
        sum(not node.name.startswith("_") for node in functions),
        sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes),
    ]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print the table."""
    commit = sys.argv[1] if len(sys.argv) > 1 else None
    print(f"| package | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    rows = {package: counts(list(sources(package, commit))) for package in PACKAGES}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for package, row in rows.items():
        print(f"| {package} | {' | '.join(f'{value:,}' for value in row)} |")


if __name__ == "__main__":
    main()
