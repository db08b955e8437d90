"""What an installation takes on the disk: merge-search with what it needs, and what each extra adds.

    python -m tests.benchmarks.installed_sizes

Counts the files of the distributions that are installed here, as their own lists name them; what pip compiles is not
counted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = "merge-search"


def main() -> None:
    """Print the table."""
    extras = PROJECT["optional-dependencies"]
    base = closure(PROJECT["dependencies"])
    rows = [("torch", closure(["torch"])), ("all else that it needs", base - closure(["torch"]))]
    for extra in extras:
        wanted = [each for each in requirements(extra) if Requirement(each).name != OURS]
        rows.append((f"[{extra}] adds", closure(wanted) - base))
    print(f"{'':24} {'packages':>8} {'MB':>7}")
    for name, names in rows:
        missing = [each for each in names if find(each) is None]
        size = f"{sum(size_of(each) for each in names) / 1e6:7.0f}" if not missing else "not installed here"
        print(f"{name:24} {len(names):8} {size}")


def requirements(extra: str) -> list[str]:
    """Return what an extra asks for, with what it asks for of our other extras."""
    found = []
    for each in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(each)
        found += [other for name in wanted.extras for other in requirements(name)] if wanted.name == OURS else [each]
    return found


def closure(wanted: Iterable[str]) -> set[str]:
    """Return the names of distributions and of all that they need here."""
    found: set[str] = set()
    left = [Requirement(each) for each in wanted]
    while left:
        each = left.pop()
        name = each.name.lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        known = find(name)
        for further in map(Requirement, (known.requires or []) if known else []):
            environments = [{"extra": extra} for extra in ("", *each.extras)]
            if further.marker is None or any(further.marker.evaluate(it) for it in environments):
                left.append(further)
    return found


def find(name: str) -> Distribution | None:
    """Return a distribution if it is installed."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def size_of(name: str) -> int:
    """Return the bytes of a distribution's files, as far as they are there."""
    found = find(name)
    files = [Path(str(file.locate())) for file in (found.files or [] if found else [])]
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")


if __name__ == "__main__":
    main()
