"""How long one candidate takes to merge in memory, against mergekit 0.1.5 doing the same merge in the same run.

    python -m tests.benchmarks.merge_speed [--models models/smollm2] [--runs 5] [--mergekit-runs 5]

Three models of 135M parameters in bfloat16 on the CPU. Ours are the candidates of a running search: the parents are
resident, what depends only on them has been computed by the first candidate, and every candidate has other numbers
than the one before, in every tensor. (The fine-tunes left the embedding and the norms as they were: a search writes
these once, mergekit merges them each time.) mergekit plans, reads its inputs (from the page cache) and merges in
memory; it keeps nothing between two merges. The two take turns. Medians; CPU seconds are those of all threads, and say
more than wall time on a machine with other work. Last, what copying takes that moves as many bytes as a merge, which
reads three models and writes one.
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

import torch

from merging import Merger, ParentSet, Recipe
from merging.kernels.native import NativeKernels
from tests.benchmarks.candidates import METHODS, benchmark_recipes, candidate
from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge

REQUIRED = {
    "ties": 100.0,
    "dare_ties": 30.0,
    "slerp": 6.0,
    "linear": 6.0,
    "task_arithmetic": 6.0,
    "della": 30.0,
    "breadcrumbs": 30.0,
}


@dataclass(frozen=True)
class Seconds:
    """What one merge took."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Seconds:
    """Return what a piece of work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True)
class Comparison:
    """Median seconds of one method: mergekit's, ours, ours without a compiler, and those of our first candidate."""

    theirs: Seconds
    ours: Seconds
    uncompiled: Seconds
    first: Seconds


def compare(text: str, merger: Merger, uncompiled: Merger, runs: int, mergekit_runs: int) -> Comparison:
    """Let mergekit and both ways of ours take turns."""
    recipe = Recipe.parse(text)
    first = timed(lambda: merger.apply(recipe))
    uncompiled.apply(recipe)
    theirs, ours, slower = [], [], []
    for turn in range(max(runs, mergekit_runs)):
        if turn < mergekit_runs:
            theirs.append(timed(lambda: mergekit_merge(text)))
        following = candidate(recipe, turn + 1)
        if turn < runs:
            ours.append(timed(lambda following=following: merger.apply(following)))
            slower.append(timed(lambda following=following: uncompiled.apply(following)))
    return Comparison(_median(theirs), _median(ours), _median(slower), first)


def copying(parents: ParentSet, runs: int) -> Seconds:
    """Return what it takes to move as many bytes as a merge moves: two models are read and written."""
    name = next(iter(parents.checkpoints))
    tensors = [parents.tensor(name, each) for each in parents.names(name)]
    copies = [torch.empty_like(tensor) for tensor in tensors for _ in range(2)]

    def copy() -> None:
        for source, target in zip([tensor for tensor in tensors for _ in range(2)], copies, strict=True):
            target.copy_(source)

    copy()
    return _median([timed(copy) for _ in range(runs)])


def _median(many: list[Seconds]) -> Seconds:
    return Seconds(median(each.wall for each in many), median(each.cpu for each in many))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mergekit-runs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    family = Family(*(str(options.models / name) for name in ("base", "text", "numeric")))
    texts = benchmark_recipes(family)
    print(f"{describe_machine()}, mergekit {version('mergekit')}, {torch.get_num_threads()} threads\n")
    print("| method | mergekit, s | ours, s | faster | CPU: mergekit, s | ours, s | no compiler, s | first, s |")
    print("|---|---|---|---|---|---|---|---|")
    with ParentSet.open([Recipe.parse(text) for text in texts.values()]) as parents:
        parents.load()
        merger, uncompiled = Merger(parents, kernels=NativeKernels()), Merger(parents)
        for method in options.methods:
            found = compare(texts[method], merger, uncompiled, options.runs, options.mergekit_runs)
            faster = f"{found.theirs.wall / found.ours.wall:.1f}x (needed: {REQUIRED[method]:.0f}x)"
            print(
                f"| {method} | {found.theirs.wall:.2f} | {found.ours.wall:.3f} | {faster} | {found.theirs.cpu:.2f} "
                f"| {found.ours.cpu:.3f} | {found.uncompiled.wall:.3f} | {found.first.wall:.2f} |",
                flush=True,
            )
        moved = copying(parents, options.runs)
    print(f"\nCopying as many bytes: {moved.wall:.3f} s")


if __name__ == "__main__":
    main()
