"""How long one candidate takes to merge in memory, against mergekit 0.1.5 doing the same merge in the same run.

    python -m tests.benchmarks.merge_speed [--models models/smollm2] [--runs 5] [--mergekit-runs 3]

Three models of 135M parameters in bfloat16 on the CPU. Ours are the candidates of a running search: the parents are
resident, what depends on them alone has been computed by the first candidate, and every candidate has other numbers
than the one before, in every tensor. mergekit plans, reads its inputs (from the page cache) and merges in memory; it
keeps nothing between two merges. The two take turns. Medians; CPU seconds are those of all threads, and say more than
wall time on a machine with other work.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from merging import Merger, ParentSet, Recipe
from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge
from tests.merging.recipes import recipes

REQUIRED = {"ties": 20.0}
METHODS = ("ties", "dare_ties", "slerp", "linear", "task_arithmetic")


@dataclass(frozen=True)
class Seconds:
    """What one merge took."""

    wall: float
    cpu: float


def benchmark_recipes(family: Family) -> dict[str, str]:
    """Return the recipes by method; gradients in all of them."""
    texts = recipes(family, "bfloat16")
    return {name: texts[name] for name in METHODS if name in texts} | {
        "dare_ties": texts["ties"].replace("merge_method: ties", "merge_method: dare_ties")
    }


def timed(work: Callable[[], object]) -> Seconds:
    """Return what a piece of work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def candidate(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with every number of its parameters made a little smaller, as a search changes them."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return value * (1 - 0.01 * number) if isinstance(value, float | int) and not isinstance(value, bool) else value

    plain = recipe.to_dict()
    for holder in (plain, *plain["models"]):
        if "parameters" in holder:
            holder["parameters"] = changed(holder["parameters"])
    return Recipe.from_dict(plain, source=f"candidate {number}")


def compare(text: str, merger: Merger, runs: int, mergekit_runs: int) -> tuple[Seconds, Seconds, float]:
    """Return the median seconds of mergekit and of ours, and ours of the first candidate, which fills the tables."""
    recipe = Recipe.parse(text)
    first = timed(lambda: merger.apply(recipe)).wall
    ours, theirs = [], []
    for turn in range(max(runs, mergekit_runs)):
        if turn < mergekit_runs:
            theirs.append(timed(lambda: mergekit_merge(text)))
        if turn < runs:
            following = candidate(recipe, turn + 1)
            ours.append(timed(lambda following=following: merger.apply(following)))
    return _median(theirs), _median(ours), first


def _median(many: list[Seconds]) -> Seconds:
    return Seconds(median(each.wall for each in many), median(each.cpu for each in many))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mergekit-runs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    family = Family(*(str(options.models / name) for name in ("base", "text", "numeric")))
    texts = benchmark_recipes(family)
    print(f"{describe_machine()}, mergekit {version('mergekit')}, {torch.get_num_threads()} threads\n")
    print("| method | mergekit, s | ours, s | faster | CPU: mergekit, s | ours, s | less | first candidate, s |")
    print("|---|---|---|---|---|---|---|---|")
    with ParentSet.open([Recipe.parse(text) for text in texts.values()]) as parents:
        parents.load()
        merger = Merger(parents)
        for method in options.methods:
            theirs, ours, first = compare(texts[method], merger, options.runs, options.mergekit_runs)
            needed = f" (needed: {REQUIRED[method]:.0f}x)" if method in REQUIRED else ""
            print(
                f"| {method} | {theirs.wall:.2f} | {ours.wall:.3f} | {theirs.wall / ours.wall:.1f}x{needed} "
                f"| {theirs.cpu:.2f} | {ours.cpu:.3f} | {theirs.cpu / ours.cpu:.1f}x | {first:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
