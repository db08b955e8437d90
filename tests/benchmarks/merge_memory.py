"""How much memory the candidates of a search need beyond that of the program, against mergekit 0.1.5's in-memory merge.

    python -m tests.benchmarks.merge_memory [--models models/smollm2]

Three models of 135M parameters in bfloat16 on the CPU; ties with gradients, three candidates. Each merger runs in a
process of its own, whose highest resident set is read before it reads any weights and after its last merge. What a
search needs is the parents and one live model; the rest is scratch and what is computed once of the parents.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from merging import Merger, ParentSet, Recipe
from merging.kernels import EAGER
from merging.kernels.native import NativeKernels
from tests.benchmarks.candidates import benchmark_recipes, candidate
from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge

MERGERS = ("ours", "ours, not compiled", "mergekit")


def peak() -> int:
    """Return the highest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def merge(merger: str, text: str) -> int:
    """Merge three candidates and return by how much the highest resident set rose."""
    recipe = Recipe.parse(text)
    if merger == "mergekit":
        before = peak()
        for number in range(3):
            mergekit_merge(candidate(recipe, number).to_yaml())
        return peak() - before
    with ParentSet.open(recipe) as parents:
        Merger(parents).tokenizer(recipe)
        before = peak()  # the architecture's code and the tokenizer do not count as merging
        parents.load()
        live = Merger(parents, kernels=NativeKernels() if merger == "ours" else EAGER)
        for number in range(3):
            live.apply(candidate(recipe, number))
        return peak() - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--merger", choices=MERGERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    folders = [str(options.models / name) for name in ("base", "text", "numeric")]
    text = benchmark_recipes(Family(*folders))["ties"]
    if options.merger:
        print(json.dumps(merge(options.merger, text)))
        return
    model = sum(file.stat().st_size for file in Path(folders[0]).glob("*.safetensors"))
    print(f"{describe_machine()}, mergekit {version('mergekit')}\n")
    print("| merger | peak, MB | in models | beyond three parents, in models |")
    print("|---|---|---|---|")
    for merger in MERGERS:
        command = [sys.executable, "-m", "tests.benchmarks.merge_memory", "--models", str(options.models)]
        done = subprocess.run([*command, "--merger", merger], capture_output=True, text=True, check=True)
        used = int(done.stdout.splitlines()[-1])
        print(f"| {merger} | {used / 1e6:.0f} | {used / model:.2f} | {used / model - 3:.2f} |", flush=True)


if __name__ == "__main__":
    main()
