"""Through which files a value passes: a parameter of a trial, a completion and its verdict, in a small search.

python -m tests.benchmarks.ways

It also counts the part of a recipe's way inside `Merger.apply`, where a candidate is merged.

A profiler looks at every call and return of the packages for the value: a float or a text that occurs once. A file is a
room; a return is a step from one file back to another that the value had left, counted once however often it is taken.
What runs in the processes of the sandbox is not seen.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType

from evaluation import Verdict
from evaluation.sandbox.task import Task
from evaluation.sandbox.zygote_pair import ZygotePair
from merging import Recipe
from search import Leaderboard, SearchConfig, run_search
from search.views.table import leaderboard_table
from tests.search.family import Family, make_family

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"{ROOT / name}/" for name in ("search", "evaluation", "merging"))
DETAIL = "the detail of one verdict"
# Two searches generate the same, whichever dtype a busy machine finds faster.
SETTINGS = ", compute_dtype: recipe"
# Objects that are passed as a whole say nothing about the way of one value in them.
HOLDERS = {
    "Bench", "Session", "Phases", "SearchConfig", "ResultsFolder", "ParentSet", "TrialRecord", "Job", "Result", "Row",
    "Leaderboard",
}  # fmt: skip
DEPTH, MOST = 5, 200


class Follower:
    """Notes in which files some values are passed or returned.

    Args:
        values: by the name of their way.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self.stays: dict[str, list[str]] = {name: [] for name in values}
        self.in_apply: list[str] = []
        self._applying = False

    def __call__(self, frame: FrameType, event: str, returned: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGES):
            return
        if code.co_qualname == "Merger.apply":
            self._applying = event == "call"
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        passed = [frame.f_locals.get(name) for name in names if name not in ("self", "cls")]
        for name, value in self._values.items():
            if _holds(passed if event == "call" else [returned], value, DEPTH):
                room = str(Path(code.co_filename).relative_to(ROOT))
                self.stays[name].append(room)
                if self._applying and name == "parameter":
                    self.in_apply.append(room)


def _holds(found: object, value: object, depth: int) -> bool:
    if isinstance(value, float) and isinstance(found, float):
        return found == value
    if isinstance(value, str) and isinstance(found, str):
        return value in found
    if depth == 0 or type(found).__name__ in HOLDERS:
        return False
    parts: Iterable[object] = ()
    if isinstance(found, Mapping | list | tuple) and len(found) < MOST:
        parts = found.values() if isinstance(found, Mapping) else found
    elif isinstance(found, Recipe):
        parts = vars(found).values()
    elif is_dataclass(found):
        parts = [getattr(found, field.name, None) for field in fields(found)]
    return any(_holds(part, value, depth - 1) for part in parts)


def rooms_and_returns(stays: Sequence[str]) -> tuple[list[str], int]:
    """Return the files in the order in which they were first entered, and how many steps lead back."""
    left: set[str] = set()
    back: set[tuple[str, str]] = set()
    for before, after in pairwise(stays):
        if before != after:
            left.add(before)
            back |= {(before, after)} if after in left else set()
    return list(dict.fromkeys(stays)), len(back)


def chosen(family: Family, folder: Path) -> dict[str, object]:
    """Run a search, and return values that are found in it once."""
    run_search(SearchConfig.load(family.write(evaluation=SETTINGS)), folder, trials=1)
    written = {
        file.stem: {json.loads(line)["completion"] for line in file.read_text(encoding="utf-8").splitlines()}
        for file in (folder / "completions").glob("*.jsonl")
    }
    others = set().union(*(texts for name, texts in written.items() if name != "trial-0"))
    trial = next(row.record for row in Leaderboard.open(folder).rows if row.record.kind == "trial")
    return {
        "parameter": trial.parameters["models[1].parameters.weight"],
        "completion": max(written["trial-0"] - others, key=len),
        "verdict": DETAIL,
    }


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        family = make_family(Path(folder, "family"))
        values = chosen(family, Path(folder, "first"))
        check = ZygotePair.check

        def marked(pair: ZygotePair, task: Task, completion: str) -> Verdict:
            verdict = check(pair, task, completion)
            return replace(verdict, detail=DETAIL) if completion == values["completion"] else verdict

        ZygotePair.check = marked
        follower = Follower(values)
        threading.setprofile(follower)
        sys.setprofile(follower)
        run_search(SearchConfig.load(family.write(evaluation=SETTINGS)), Path(folder, "second"), trials=1)
        leaderboard_table(Leaderboard.open(Path(folder, "second")))
        sys.setprofile(None)
        threading.setprofile(None)
    ways = {
        "a recipe's value": [
            room for room in follower.stays["parameter"] if room.startswith(("merging/", "search/space"))
        ],
        "the same, in `Merger.apply`": follower.in_apply,
        "a completion": follower.stays["completion"],
        "a verdict": follower.stays["verdict"],
        "a trial's parameters": [room for room in follower.stays["parameter"] if room.startswith("search/")],
    }
    print("| what | rooms | returns | its way |\n|---|---:|---:|---|")
    for name, stays in ways.items():
        rooms, returns = rooms_and_returns(stays)
        print(f"| {name} | {len(rooms)} | {returns} | {' → '.join(rooms)} |")


if __name__ == "__main__":
    main()
