"""How long a search of many trials takes to show its leaderboard, and to propose and keep one trial more.

    python -m tests.benchmarks.large_searches

The records are made up: 3 parents, 18 parameters, 164 problems. The leaderboard is timed as a whole command.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from optuna.distributions import BaseDistribution, FloatDistribution

from search.study.local_store import LocalStore
from search.study.outcomes import Split
from search.study.record import Scoring, TrialRecord
from search.study.samplers import Proposer
from search.study.store import Records
from tests.benchmarks.machine import describe_machine

_PARENTS, _PARAMETERS, _PROBLEMS = 3, 18, 164
_SPACE: dict[str, BaseDistribution] = {
    f"models[{i}].parameters.weight": FloatDistribution(0, 1) for i in range(_PARAMETERS)
}
_TRIALS = (1_000, 10_000, 50_000)
_REPEATS = 5
_SAMPLERS = ("tpe", "cmaes", "nsgaii", "qmc", "random")  # gp takes minutes


def _trial(number: int) -> TrialRecord:
    draw = random.Random(number)
    parameters = {name: draw.random() for name in _SPACE}
    share = sum(parameters.values()) / _PARAMETERS
    weights = [{"model": name, "parameters": {"weight": weight}} for name, weight in parameters.items()]
    recipe = {"merge_method": "linear", "models": weights, "dtype": "bfloat16"}
    return TrialRecord(
        "trial", number, parameters=parameters, recipe=recipe, search=_scoring(draw, share), proposed_by="tpe"
    )


def _parent(number: int) -> TrialRecord:
    scoring = _scoring(random.Random(f"parent {number}"), 0.4)
    recipe = {"merge_method": "passthrough", "models": [{"model": f"parent-{number}"}]}
    return TrialRecord("parent", number, f"parent-{number}", recipe=recipe, search=scoring, report=scoring)


def _scoring(draw: random.Random, share: float) -> Scoring:
    outcomes = "".join("p" if draw.random() < share else "f" for _ in range(_PROBLEMS))
    score = outcomes.count("p") / _PROBLEMS
    return Scoring("complete", outcomes, score, (score,), -0.5, {"total": 1.0}, 4_000, "worker", 1.0)


def _make(folder: Path, trials: int) -> None:
    (folder / "completions").mkdir(parents=True)
    (folder / "config.yaml").touch()
    split = Split(problems=_PROBLEMS)
    with closing(LocalStore.create(folder, "large", {})) as store:
        parents = [_parent(number) for number in range(_PARENTS)]
        store.begin(parents, splits={"search": split, "report": split}, planned=trials)
        store.begin([], taken_over=[_trial(number) for number in range(trials)])


def _seconds_of_leaderboard(folder: Path) -> float:
    started = time.perf_counter()
    words = ["-m", "search", "leaderboard", str(folder), "--top", "10"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _seconds_of_proposals(folder: Path, sampler: str, trials: int) -> tuple[float, float]:
    """Return what the first proposal of a worker takes, and the median of those that follow, with all of the store."""
    seconds = []
    with closing(LocalStore(folder)) as store, store.sign_in() as worker:
        records, proposer = Records(store), Proposer(sampler, 0, _SPACE)
        for _ in range(_REPEATS + 1):
            started = time.perf_counter()
            job = store.claim(worker, trials + 1_000)
            assert job
            job = store.propose(job, proposer.propose(job.record.number, records.read()))
            store.keep(job, job.record.scored("search", _trial(job.record.number).search))
            seconds.append(time.perf_counter() - started)
    return seconds[0], median(seconds[1:])


def main() -> None:
    """Print a table of each."""
    print(describe_machine(), "\n")
    print("| trials | leaderboard [s] |", *(f"{name}: first, next [s] |" for name in _SAMPLERS))
    print("|---:|---:|" + "---:|" * len(_SAMPLERS))
    for trials in _TRIALS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "large"
            _make(folder, trials)
            leaderboard = median(_seconds_of_leaderboard(folder) for _ in range(_REPEATS))
            cells = [f"{leaderboard:.2f}"]
            for sampler in _SAMPLERS:
                first, following = _seconds_of_proposals(folder, sampler, trials)
                cells.append(f"{first:.2f}, {following:.3f}")
            print(f"| {trials:,} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
