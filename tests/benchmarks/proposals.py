"""What the ascent is worth: report score, problem evaluations and seconds, against samplers by themselves.

    python -m tests.benchmarks.proposals --folder FOLDER [--seeds 10] [--trials 100] [--searches default tpe cmaes gp]

Each search is the command that a person types. `default` is the config as it comes, with `--first` trials; the others
have no ascent, and all their trials. No search ends before its trials are over. FOLDER keeps every results folder: what
is there is not run again, and the tables are printed from the records in it.

A problem evaluation is a completion of one problem of the search split, those of the reference models included. A step
of an ascent counts as three of each solution that it reads. The report split is charged to all alike, and not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml

from search.board.ranking import best
from search.results import ResultsFolder
from search.study.record import ASCENT
from tests.benchmarks.machine import describe_machine

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
COMMAND = [str(Path(sys.executable).with_name("merge-search"))]
# Knots of each parent's density and weight; 1 for a single number.
FAMILIES = {"6 parameters": (1, 2), "18 parameters": (3, 6)}
DEFAULT = "default"
SECONDS = "seconds.json"


@dataclass(frozen=True)
class Ended:
    """What a search came to: the best trial's scores in [0, 1], and what it took."""

    search: float
    report: float
    evaluations: int
    seconds: float


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--searches", nargs="+", default=[DEFAULT, "tpe", "cmaes", "gp"])
    given = parser.parse_args()
    print(f"{describe_machine()}\n")
    for family in given.families:
        found = {name: [] for name in given.searches}
        for seed in range(given.seeds):
            for name in given.searches:
                trials = given.first if name == DEFAULT else given.trials
                found[name].append(run(given.folder, family, name, seed, trials))
        print(f"{family}, {given.seeds} seeds of split and sampler\n")
        print("\n".join(table(found)) + "\n", flush=True)


def run(folder: Path, family: str, name: str, seed: int, trials: int) -> Ended:
    """Run a search, unless the folder has it, and return what it came to."""
    place = folder / f"{family.replace(' ', '-')}-{name}-{seed}"
    out, noted = place / "results", place / SECONDS
    if not noted.exists():
        place.mkdir(parents=True, exist_ok=True)
        config = place / "config.yaml"
        config.write_text(yaml.safe_dump(configured(family, name)), encoding="utf-8")
        command = [*COMMAND, "run", str(config), "--out", str(out), "--seed", str(seed), "--trials", str(trials)]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        noted.write_text(json.dumps(time.perf_counter() - started), encoding="utf-8")
    return ended(out, json.loads(noted.read_text(encoding="utf-8")))


def configured(family: str, name: str) -> dict[str, object]:
    """Return the config of a search."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    density, weight = FAMILIES[family]
    recipe = config["recipe"]
    recipe["base_model"] = str(CONFIG.parent / recipe["base_model"])
    for model in recipe["models"]:
        model["model"] = str(CONFIG.parent / model["model"])
        for key, knots in (("density", density), ("weight", weight)):
            model["parameters"][key].pop("knots", None)
            model["parameters"][key] |= {"knots": knots} if knots > 1 else {}
    config["evaluation"]["problems"] = str(CONFIG.parent / config["evaluation"]["problems"])
    config["search"] |= {"finalists": 1, "stop": {"proven": False}}
    if name != DEFAULT:
        config["search"] |= {"sampler": name, "ascent": "off"}
    return config


def ended(out: Path, seconds: float) -> Ended:
    """Read what a search came to from its records."""
    _, records, _ = ResultsFolder.open(out).read()
    winner = best(records)
    assert winner
    assert winner.search.score is not None
    assert winner.report
    assert winner.report.score is not None
    scored = sum(len(record.search.outcomes) for record in records if record.same_as is None)
    ascended = sum(record.sampler_notes.get(ASCENT, {}).get("evaluations", 0) for record in records)
    return Ended(winner.search.score, winner.report.score, scored + ascended, seconds)


def table(found: dict[str, list[Ended]]) -> Iterator[str]:
    """Yield the lines of a family's table."""
    first = next(iter(found.values()))
    yield "| search | search split | report split | report, less the first [95%] | problem evaluations | seconds |"
    yield "|---|---|---|---|---|---|"
    for name, runs in found.items():
        differences = [mine.report - theirs.report for mine, theirs in zip(runs, first, strict=True)]
        spread = 1.96 * stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        middle = mean(differences)
        less = (
            ""
            if runs is first
            else f"{middle * 100:+.1f} [{(middle - spread) * 100:+.1f}, {(middle + spread) * 100:+.1f}]"
        )
        yield (
            f"| {name} | {mean(run.search for run in runs):.1%} | {mean(run.report for run in runs):.1%} | {less} "
            f"| {mean(run.evaluations for run in runs):,.0f} | {mean(run.seconds for run in runs):.1f} |"
        )


if __name__ == "__main__":
    main()
