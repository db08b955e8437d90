"""How long the quickstart takes, and whether its best merge is really better than the best parent, for three seeds.

    python tests/benchmarks/quickstart.py [--trials 40]

Each run is the command that a person types, as a process of its own, from its start to the printed leaderboard. It
takes after this one: a lesser processor is emulated for both (see compute_dtype.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from search.results import ResultsFolder
from tests.benchmarks.machine import describe_machine

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
COMMAND = [str(Path(sys.executable).with_name("merge-search"))]


def run(seed: int, trials: int, out: Path) -> tuple[float, dict[str, Any]]:
    """Run the search and return its wall time and its leaderboard."""
    started = time.perf_counter()
    command = [*COMMAND, "run", str(CONFIG), "--out", str(out), "--seed", str(seed), "--trials", str(trials)]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    printed = subprocess.run([*COMMAND, "leaderboard", str(out), "--json"], check=True, capture_output=True, text=True)
    return seconds, json.loads(printed.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    trials = parser.parse_args().trials
    print(f"{describe_machine()}\n")
    print("| seed | seconds | best parent, search / report | best merge, search / report | won : lost | McNemar p |")
    print("|---|---|---|---|---|---|")
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            seconds, board = run(seed, trials, Path(folder) / str(seed))
            taken.append(seconds)
            best = next(row for row in board["rows"] if row["kind"] == "trial" and row["trial"] == board["best"])
            parent = max((row for row in board["rows"] if row["kind"] == "parent"), key=lambda row: row["search_score"])
            scores = (f"{row['search_score']:.1%} / {row['report_score']:.1%}" for row in (parent, best))
            print(
                f"| {seed} | {seconds:.1f} | {' | '.join(scores)} | {best['won']} : {best['lost']} "
                f"| {best['p_value']:.1g} |",
                flush=True,
            )
            computed = ResultsFolder.open(Path(folder) / str(seed)).compute_dtype
    print(f"\nup to {trials} trials each, computed in {computed if computed == 'float32' else 'bfloat16'}; ", end="")
    print(f"median {median(taken):.1f} s from the command to the printed leaderboard")


if __name__ == "__main__":
    main()
