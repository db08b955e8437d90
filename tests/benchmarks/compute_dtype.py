"""How fast this processor multiplies matrices in each dtype, what `auto` chooses, and what widening costs a merge.

    python -m tests.benchmarks.compute_dtype [--models models/smollm2] [--runs 15]
    export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

With these set, torch computes as on a processor that has only AVX2; the C passes are compiled for the one at hand.
Products are those of a 135M model's layers, with all threads. Merges are those of `merge_speed`: every candidate has
other numbers than the one before. Each kind takes its turn, and the least of the runs is shown.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from evaluation import compute_speeds
from merging import Merger, ParentSet, Recipe
from merging.kernels import EAGER
from merging.kernels.native import NativeKernels
from tests.benchmarks.candidates import METHODS, benchmark_recipes, candidate
from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family

NEEDED = 1.3
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Rows and columns, and tokens of a pass that reads prompts, and of one that writes.
PRODUCTS = [(shape, tokens) for shape in ((576, 576), (1536, 576), (576, 1536)) for tokens in (1024, 80)]


def least(works: list[Callable[[], object]], runs: int) -> list[float]:
    """Return the least seconds of each piece of work; they take turns."""
    seconds = [float("inf")] * len(works)
    for _ in range(runs):
        for index, work in enumerate(works):
            started = time.perf_counter()
            work()
            seconds[index] = min(seconds[index], time.perf_counter() - started)
    return seconds


def products(runs: int) -> None:
    """Print the speed of matrix products in each dtype."""
    print(f"| product | tokens | {' | '.join(f'{_name(dtype)}, GFLOP/s' for dtype in DTYPES)} |")
    print("|---|---|---|---|---|")
    for (rows, columns), tokens in PRODUCTS:
        operands = [[torch.randn(size, columns).to(dtype) for size in (tokens, rows)] for dtype in DTYPES]
        works = [lambda pair=pair: torch.nn.functional.linear(*pair) for pair in operands]
        speeds = [2e-9 * rows * columns * tokens / seconds for seconds in least(works, runs)]
        print(f"| {rows} x {columns} | {tokens} | {' | '.join(f'{speed:.0f}' for speed in speeds)} |", flush=True)


def choices(merger: Merger, recipe: Recipe) -> None:
    """Print what is chosen for a model, and how long that takes."""
    for dtype in DTYPES[:2]:
        started = time.perf_counter()
        speeds = compute_speeds([entry.shape for entry in merger.plan(recipe).entries], dtype)
        assert speeds is not None
        print(
            f"{_name(dtype)}: float32 is {speeds.speedup:.2f}x as fast, so auto computes in "
            f"{'float32' if speeds.choice == 'float32' else _name(dtype)}; measured in "
            f"{time.perf_counter() - started:.2f} s"
        )


def merges(parents: ParentSet, texts: dict[str, str], runs: int) -> None:
    """Print what a merge takes in place and widened, with kernels and without."""
    print("| method | in place, s | widened, s | ratio | no compiler: in place, s | widened, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    mergers = [
        Merger(parents, kernels=kernels, compute_dtype=dtype)
        for kernels in (NativeKernels(), EAGER)
        for dtype in (None, torch.float32)
    ]
    for method, text in texts.items():
        recipe = Recipe.parse(text)
        for merger in mergers:
            merger.apply(recipe)
        candidates = [candidate(recipe, number + 1) for number in range(runs)]
        turns = [iter(candidates) for _ in mergers]
        works = [lambda m=merger, turn=turn: m.apply(next(turn)) for merger, turn in zip(mergers, turns, strict=True)]
        compiled, compiled_wide, plain, plain_wide = least(works, runs)
        print(
            f"| {method} | {compiled:.3f} | {compiled_wide:.3f} | {compiled_wide / compiled:.2f} (needed: {NEEDED}) "
            f"| {plain:.3f} | {plain_wide:.3f} | {plain_wide / plain:.2f} |",
            flush=True,
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{describe_machine()}, {torch.get_num_threads()} threads\n")
    products(options.runs)
    print()
    family = Family(*(str(options.models / name) for name in ("base", "text", "numeric")))
    texts = {name: text for name, text in benchmark_recipes(family).items() if name in options.methods}
    with ParentSet.open([Recipe.parse(text) for text in texts.values()]) as parents:
        parents.load()
        choices(Merger(parents), Recipe.single(family.base))
        print()
        merges(parents, texts, options.runs)


if __name__ == "__main__":
    main()
