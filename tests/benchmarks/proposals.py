"""What the default search is worth against samplers by themselves: report score, problem evaluations and seconds.

    python -m tests.benchmarks.proposals [--seeds 10] [--trials 100] [--first 5] [--families ...] [--searches ...]
    python -m tests.benchmarks.proposals --families smollm2 --seeds 3  # after smollm2.py --only-base
    python -m tests.benchmarks.proposals --jobs 2  # two searches at once: sooner, but their seconds are not recorded

Each search is the command that a person types. `default` is the config as it comes, with `--first` trials, and
`default, whole` the same with all trials, as the others, which have no ascent. `pycma` is not a command, but pycma as
mergekit-evolve sets it up (x0 = equal weights that sum to 1, and full densities; sigma0 = 1/6), on our merger and
evaluator. No search ends before its trials are over. `mostly text` is a variant of the quickstart with four text
problems to one of maths: there the best parent is good, and the gain of a merge small. `smollm2` is the search of
configs/smollm2_adapters.yaml, also with other knots of all its parameters.

Every search that has ended is a line of `records/proposals.jsonl`, which the tables are printed from. What is there is
not run again, so the benchmark goes on where it was stopped.

A problem evaluation is a completion of one problem of the search split, those of the reference models included. In an
ascent, a forward pass over a solution counts as one, and a step as three of each solution that it reads. The report
split is charged to all alike, and not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from typing import Literal

import cma
import yaml
from optuna.distributions import BaseDistribution, FloatDistribution

from merging import Recipe
from search.board.ranking import best, best_parent
from search.counts import counted
from search.progress import Progress
from search.results import ResultsFolder
from search.run.setup import set_up
from search.space.config import SearchConfig, located
from search.study.record import ASCENT, SplitName
from tests.benchmarks.machine import describe_machine
from tests.fixtures.quickstart.families import Kind, of_kind, problems

CONFIGS = Path(__file__).parents[2] / "configs"
RECORDS = Path(__file__).parent / "records" / "proposals.jsonl"
COMMAND = [str(Path(sys.executable).with_name("merge-search"))]
# One search at a time in this process: transformers changes its default dtype while it makes a model.
_HERE = Lock()
DEFAULT, WHOLE, PYCMA = "default", "default, whole", "pycma"


@dataclass(frozen=True)
class Family:
    """A config, with other knots of each parent's density and weight (1: a single number).

    Where `problems` are counted by kind, they are made anew; otherwise they are the config's own.
    """

    density: int | Literal["layers"]
    weight: int | Literal["layers"]
    problems: Mapping[Kind, int] = field(default_factory=dict)
    config: str = "quickstart"


FAMILIES = {
    "6 parameters": Family(1, 2),
    "18 parameters": Family(3, 6),
    "mostly text": Family(1, 2, {"strings": 240, "numbers": 60}),
    "smollm2": Family(1, 2, config="smollm2_adapters"),
    "smollm2, 3 knots": Family(3, 3, config="smollm2_adapters"),
    "smollm2, layers": Family("layers", "layers", config="smollm2_adapters"),
}
QUICKSTART = [name for name, family in FAMILIES.items() if family.config == "quickstart"]


@dataclass(frozen=True)
class Ended:
    """What a search came to: scores in [0, 1] of the best trial and of the best parent, and what it took.

    The seconds of a search that ran beside another are None.
    """

    family: str
    name: str
    seed: int
    trials: int
    search: float
    report: float
    parent: float
    evaluations: int
    seconds: float | None
    machine: str


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=QUICKSTART, choices=list(FAMILIES))
    parser.add_argument("--searches", nargs="+", default=[DEFAULT, WHOLE, "tpe", "cmaes", "gp", PYCMA])
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    known = {(it.family, it.name, it.seed, it.trials): it for it in (Ended(**json.loads(line)) for line in lines)}
    seeds = range(given.seeds)
    trials = {name: given.first if name == DEFAULT else given.trials for name in given.searches}
    keys = [(family, name, seed, trials[name]) for seed, family, name in product(seeds, given.families, given.searches)]
    with ThreadPoolExecutor(given.jobs) as pool:
        running = [pool.submit(run, *key, alone=given.jobs == 1) for key in keys if key not in known]
        for ended in map(Future.result, as_completed(running)):
            known[ended.family, ended.name, ended.seed, ended.trials] = ended
            with RECORDS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(ended)) + "\n")
            print(ended, file=sys.stderr, flush=True)
    for family in given.families:
        found = {name: [known[family, name, seed, trials[name]] for seed in seeds] for name in given.searches}
        print("\n".join(table(family, found)) + "\n")


def run(family: str, name: str, seed: int, trials: int, *, alone: bool) -> Ended:
    """Run a search, and return what it came to."""
    with tempfile.TemporaryDirectory() as place:
        config, out = Path(place) / "config.yaml", Path(place) / "results"
        config.write_text(yaml.safe_dump(configured(FAMILIES[family], name, Path(place))), encoding="utf-8")
        started = time.perf_counter()
        if name == PYCMA:
            with _HERE:
                search, report, parent, evaluations = by_pycma(SearchConfig.load(config), out, seed, trials)
        else:
            command = [*COMMAND, "run", str(config), "--out", str(out), "--seed", str(seed), "--trials", str(trials)]
            subprocess.run(command, check=True, capture_output=True)
            search, report, parent, evaluations = found_in(out)
        took = time.perf_counter() - started if alone else None
    return Ended(family, name, seed, trials, search, report, parent, evaluations, took, describe_machine())


def found_in(out: Path) -> tuple[float, float, float, int]:
    """Return the scores of a search's best trial on both splits, the best parent's on the second, and what it took."""
    records = ResultsFolder.open(out).read()[1]
    winner, parent = best(records), best_parent(records)
    assert winner
    assert winner.search.score is not None
    assert winner.report
    assert winner.report.score is not None
    assert parent
    assert parent.report
    assert parent.report.score is not None
    scored = sum(len(record.search.outcomes) for record in records if record.same_as is None)
    ascended = sum(record.sampler_notes.get(ASCENT, {}).get("evaluations", 0) for record in records)
    return winner.search.score, winner.report.score, parent.report.score, scored + ascended


def by_pycma(config: SearchConfig, out: Path, seed: int, trials: int) -> tuple[float, float, float, int]:
    """Return the same of a search by pycma, which needs neither the base nor the average."""
    searched = config.updated("search", seed=seed)
    with set_up(searched, out, trials, Progress(), fresh=False, retry_failed=False) as session:
        bench, space = session.bench, searched.space

        def score(recipe: Recipe, split: SplitName) -> float:
            return bench.score(recipe, split)[0].pass_at_1

        middle = space.recipe_at(space.middle()).to_dict()
        parents = [Recipe.single(model["model"], middle["dtype"]) for model in middle["models"]]
        best_of_parents = max(parents, key=lambda parent: score(parent, "search"))
        ranges = space.distributions()
        options = {"bounds": [0, 1], "seed": seed + 1, "verbose": -9}
        strategy = cma.CMAEvolutionStrategy(equal_weights(ranges, len(parents)), 1 / 6, options)
        tried: list[tuple[float, Recipe]] = []
        while len(tried) < trials:
            points = strategy.ask()[: trials - len(tried)]
            recipes = [space.recipe_at(parameters_at(ranges, point)) for point in points]
            scores = [score(recipe, "search") for recipe in recipes]
            tried += zip(scores, recipes, strict=True)
            if len(points) == strategy.popsize:
                strategy.tell(points, [-each for each in scores])
        best_score, winner = max(tried, key=lambda pair: pair[0])
        evaluations = (len(parents) + len(tried)) * len(bench.splits["search"])
        return best_score, score(winner, "report"), score(best_of_parents, "report"), evaluations


def equal_weights(ranges: Mapping[str, BaseDistribution], models: int) -> list[float]:
    """Return where mergekit-evolve begins in the unit box: equal weights that sum to 1, and full densities."""
    found = []
    for name, it in ranges.items():
        assert isinstance(it, FloatDistribution)
        found.append(((1 / models if "weight" in name else 1.0) - it.low) / (it.high - it.low))
    return found


def parameters_at(ranges: Mapping[str, BaseDistribution], point: Iterable[float]) -> dict[str, float]:
    """Return the parameters at a point of the unit box; all ranges are of floats."""
    found = {}
    for (name, it), place in zip(ranges.items(), point, strict=True):
        assert isinstance(it, FloatDistribution)
        found[name] = it.low + (it.high - it.low) * float(place)
    return found


def configured(family: Family, name: str, place: Path) -> dict[str, object]:
    """Return the config of a search; problems that are made anew are written to a folder."""
    config = yaml.safe_load((CONFIGS / f"{family.config}.yaml").read_text(encoding="utf-8"))
    recipe = config["recipe"] = located(config["recipe"], [CONFIGS, CONFIGS.parent])
    for model in recipe["models"]:
        for key, knots in (("density", family.density), ("weight", family.weight)):
            model["parameters"][key].pop("knots", None)
            model["parameters"][key] |= {"knots": knots} if knots != 1 else {}
    asked = CONFIGS / config["evaluation"]["problems"]
    if family.problems:
        asked = place / "problems.jsonl"
        rows = [row for kind, count in family.problems.items() for row in problems(kind, of_kind(kind), count, seed=0)]
        asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config["evaluation"]["problems"] = str(asked)
    config["search"] |= {"finalists": 1, "stop": {"proven": False}}
    if name not in {DEFAULT, WHOLE, PYCMA}:
        config["search"] |= {"sampler": name, "ascent": "off"}
    return config


def table(family: str, found: dict[str, list[Ended]]) -> Iterator[str]:
    """Yield the lines of a family's table."""
    first = next(iter(found.values()))
    parent = mean(run.parent for run in first)
    seeds = f"{counted(len(first), 'seed')} of split and sampler"
    yield f"{family}, {seeds}; the best parent has {parent:.1%} on the report split"
    yield ""
    yield from sorted({run.machine for runs in found.values() for run in runs})
    yield ""
    heads = ("search", "trials", "search split", "report split", "less the first [95%]", "problem evaluations")
    yield f"| {' | '.join(heads)} | seconds (of searches) |"
    yield "|---|---|---|---|---|---|---|"
    for name, runs in found.items():
        search, report, evaluations = (
            mean(getattr(run, field) for run in runs) for field in ("search", "report", "evaluations")
        )
        alone = [run.seconds for run in runs if run.seconds]
        seconds = f"{mean(alone):.1f} ({len(alone)})" if alone else ""
        less = "" if runs is first else difference(runs, first)
        scores = f"{search:.1%} | {report:.1%} | {less}"
        yield f"| {name} | {runs[0].trials} | {scores} | {evaluations:,.0f} | {seconds} |"


def difference(runs: Sequence[Ended], others: Sequence[Ended]) -> str:
    """Return how much better some searches are on the report split, paired by seed, in points with an interval."""
    apart = [100 * (one.report - other.report) for one, other in zip(runs, others, strict=True)]
    if len(apart) == 1:
        return f"{apart[0]:+.1f}"
    spread = 1.96 * stdev(apart) / len(apart) ** 0.5
    return f"{mean(apart):+.1f} [{mean(apart) - spread:+.1f}, {mean(apart) + spread:+.1f}]"


if __name__ == "__main__":
    main()
