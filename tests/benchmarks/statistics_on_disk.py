"""What it takes to start a search again, with the statistics of the parents that it left on disk and without.

    python -m tests.benchmarks.statistics_on_disk [--models models/smollm2] [--methods ties della tsv_m] [--runs 3]

Three models of 135M parameters in bfloat16 on the CPU. Each run is a process of its own that opens the parents, reads
them and merges the first candidate: without a folder, with an empty one (where the parents are hashed, too, and what is
computed is written), and with what that left. Seconds are medians: of the start (all of this) and of the candidate. The
CPU's are those of all threads. Memory is what is the process's own at the end and cannot be dropped, unlike the
pages of mapped files.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median

import torch

from merging import MergeOptions, Merger, ParentSet, Recipe
from merging.kernels.native import NativeKernels
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.merge_speed import Seconds, benchmark_recipes, timed
from tests.merging.conftest import Family

METHODS = ("ties", "della", "tsv_m")
STATES = ("none", "empty", "left by another")


def text_of(method: str, family: Family) -> str:
    """Return a recipe by its method, in YAML."""
    if method != "tsv_m":
        return benchmark_recipes(family)[method]
    models = "".join(f"- {{model: {model}, parameters: {{weight: 0.7}}}}\n" for model in (family.a, family.b))
    return f"merge_method: tsv_m\nbase_model: {family.base}\nmodels:\n{models}dtype: bfloat16\n"


def start(text: str, folder: Path | None) -> dict[str, float]:
    """Open the parents, merge one candidate, and return what that took."""
    recipe = Recipe.parse(text)
    candidate = Seconds(0, 0)

    def work() -> None:
        nonlocal candidate
        with ParentSet.open(recipe, MergeOptions(statistics=folder)) as parents:
            parents.statistics.write()
            parents.load()
            merger = Merger(parents, kernels=NativeKernels())
            candidate = timed(lambda: merger.apply(recipe))
            status.append(Path("/proc/self/status").read_text(encoding="utf-8"))

    status: list[str] = []
    whole = timed(work)
    own = re.search(r"RssAnon:\s+(\d+) kB", status[0])
    assert own
    return {
        "start": whole.wall,
        "start_cpu": whole.cpu,
        "candidate": candidate.wall,
        "candidate_cpu": candidate.cpu,
        "memory": int(own[1]) / 1e3,
    }


def run(method: str, state: str, models: Path, folder: Path) -> dict[str, float]:
    """Return what `start` returns in a process of its own, with the folder in a state."""
    if state == "empty":
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "tests.benchmarks.statistics_on_disk", "--models", str(models), "--alone"]
    command += ["--methods", method, *([] if state == "none" else ["--folder", str(folder)])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models/smollm2"), help="holds base, text and numeric")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    family = Family(*(str(options.models / name) for name in ("base", "text", "numeric")))
    if options.alone:
        print(json.dumps(start(text_of(options.methods[0], family), options.folder)))
        return
    print(f"{describe_machine()}, {torch.get_num_threads()} threads\n")
    print("| method | statistics | start, s | CPU, s | candidate, s | CPU, s | memory, MB | on disk, MB | files |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in options.methods:
        folder = Path(tempfile.mkdtemp()) / "statistics"
        for state in STATES:
            runs = [run(method, state, options.models, folder) for _ in range(options.runs)]
            found = {key: median(each[key] for each in runs) for key in runs[0]}
            files = list(folder.iterdir()) if state != "none" else []
            print(
                f"| {method} | {state} | {found['start']:.2f} | {found['start_cpu']:.2f} | {found['candidate']:.2f} "
                f"| {found['candidate_cpu']:.2f} | {found['memory']:.0f} "
                f"| {sum(file.stat().st_size for file in files) / 1e6:.0f} | {len(files)} |",
                flush=True,
            )
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
