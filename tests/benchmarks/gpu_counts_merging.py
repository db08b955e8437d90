"""What a candidate's merge asks of a GPU, per tensor: launches, copies and waits, counted without one.

    python -m tests.benchmarks.gpu_counts_merging

A small model with the structure of a Llama, three parents in bfloat16. The meta device takes a GPU's part, and a
compiled function counts as one launch (tests/merging/counted.py). Candidates of a running search: what depends only on
the parents is there. The parents are on the card, or in pinned memory and copied a tensor ahead.

Then, from the sizes of real models: what copying parents ahead takes of a card, where none of three is kept there. It
was twice the largest tensor of all parents; now it is what streaming_bytes says.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from merging import Recipe
from merging.residency.budget import Budget
from merging.residency.streaming import streaming_bytes
from tests.benchmarks.candidates import benchmark_recipes, candidate
from tests.benchmarks.memory_plan import LARGE, MODELS, PARENTS_OF_SEARCH
from tests.merging.conftest import make_family
from tests.merging.counted import counted_candidates

METHODS = ("linear", "ties", "dare_ties", "slerp", "della")
PLENTY = 1 << 40


def main() -> None:
    """Print the tables."""
    warnings.filterwarnings("ignore")
    _print_counts()
    print("\n| model | two buffers, GB | streaming_bytes, GB | in chunks of 512 MiB, GB |")
    print("|---|---:|---:|---:|")
    for model in (*MODELS, LARGE):
        groups = [[size * 2] * PARENTS_OF_SEARCH for size in model.on_device(0, 1)]
        taken = 2 * max(map(sum, groups)), streaming_bytes(groups).device, streaming_bytes(groups, 512 << 20).device
        print(f"| {model.name} | " + " | ".join(f"{each / 1e9:.2f}" for each in taken) + " |")


def _print_counts() -> None:
    print("| method | parents | tensors | launches per tensor | copies per tensor | waits per candidate |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        texts = benchmark_recipes(make_family(Path(folder), layers=2))
        for method in METHODS:
            recipe = Recipe.parse(texts[method])
            for where, budget in (("on the card", Budget(PLENTY, 0)), ("pinned", Budget(0, PLENTY))):
                counts = counted_candidates([recipe, candidate(recipe, 1), candidate(recipe, 2)], budget)[-1]
                tensors = counts.names.count("merge_task_vectors") + counts.names.count("weighted_sum")
                print(
                    f"| {method} | {where} | {tensors} | {counts.launches / tensors:.1f} "
                    f"| {counts.copies / tensors:.1f} | {counts.waits} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
