"""How long it takes to write a merge to disk, and how much memory, against mergekit 0.1.5's `mergekit-yaml`.

    python -m tests.benchmarks.export_speed [--models models/smollm2] [--runs 5] [--methods linear ties]

Three models of 135M parameters in bfloat16. Each run is the command that a person types, as a process of its own, from
its start to its end; the two take turns, each with the parents in the page cache and nothing left to write back, and
share whatever else the machine does. Memory is the most that the process had resident (its ru_maxrss, which counts what
it has mapped of files, too). Medians; CPU seconds are those of all threads, and say more than wall time on a machine
with other work.

Ours begins with an empty cache folder. The first merge of a kind of model imports transformers and remembers what it
says about it; that one is shown by itself and is not among the others. mergekit keeps nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family
from tests.merging.recipes import recipes

METHODS = ("linear", "ties")
REQUIRED = 3.0


@dataclass(frozen=True)
class Cost:
    """What one export took."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def run(command: Sequence[str | Path], cache: Path) -> Cost:
    """Run a command to its end and return what it took. Raises RuntimeError, with what it printed, if it fails."""
    os.sync()
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, printed.fileno(), 1), (os.POSIX_SPAWN_DUP2, printed.fileno(), 2)]
        child = os.posix_spawn(str(command[0]), [str(word) for word in command], environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)  # whose usage is this child's alone
        seconds = time.perf_counter() - started
        if status:
            printed.seek(0)
            raise RuntimeError(f"{command}: {printed.read().decode(errors='replace')[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def compare(text: str, runs: int) -> tuple[Cost, Cost, Cost]:
    """Return the median cost of mergekit and of ours, of a recipe; and that of our first run of all."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="export-speed-") as name:
        folder = Path(name)
        recipe, out = folder / "recipe.yaml", folder / "merged"
        recipe.write_text(text, encoding="utf-8")

        def cost(command: Sequence[str | Path]) -> Cost:
            found = run(command, folder / "cache")
            shutil.rmtree(out)
            return found

        mergekit: list[str | Path] = [programs / "mergekit-yaml", recipe, out, "--quiet"]
        merge_search: list[str | Path] = [programs / "merge-search", "merge", recipe, out, "--device", "cpu"]
        cost(mergekit)  # which also reads the parents into the page cache
        first = cost(merge_search)
        both = [(cost(mergekit), cost(merge_search)) for _ in range(runs)]
    return _median([theirs for theirs, _ in both]), _median([ours for _, ours in both]), first


def _median(many: list[Cost]) -> Cost:
    return Cost(*(median(getattr(each, field.name) for each in many) for field in fields(Cost)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    family = Family(*(str((options.models / name).resolve()) for name in ("base", "text", "numeric")))
    texts = recipes(family, "bfloat16")
    print(f"{describe_machine()}, mergekit {version('mergekit')}, {options.runs} runs\n")
    print(
        "| export | mergekit-yaml, s | ours, s | faster | CPU: mergekit, s | ours, s | less | mergekit, MB | ours, MB "
        "| our first, s | CPU, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for method in options.methods:
        theirs, ours, first = compare(texts[method], options.runs)
        print(
            f"| {method} | {theirs.seconds:.1f} | {ours.seconds:.1f} | {theirs.seconds / ours.seconds:.1f}x "
            f"(needed: {REQUIRED:.0f}x) | {theirs.cpu_seconds:.1f} | {ours.cpu_seconds:.1f} "
            f"| {theirs.cpu_seconds / ours.cpu_seconds:.1f}x | {theirs.megabytes:.0f} | {ours.megabytes:.0f} "
            f"| {first.seconds:.1f} | {first.cpu_seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
