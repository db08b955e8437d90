"""What a paired race would save: a trial is given up as soon as it is significantly worse than the best before it.

    python -m tests.benchmarks.race [--trials 60] [--sampler tpe] [--blocks 10 30 75]

Runs a search of the quickstart without an ascent, whose samplers propose many bad trials, so that a race has the most
to save. Each trial is then replayed: problems come in blocks, those first on which earlier trials differ most, and
after each block the exact McNemar test (one-sided, 5% at every look, which favours the race) compares the trial with
the best one so far. What it saves of the completions is exact. What it saves of the time is measured: some of the
trials are merged again and generate first all problems at once, and then block by block until the race ends them, both
with the drafts of the trials before them. Seconds are those of the processor, which other work on the machine changes
little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from transformers import PreTrainedModel

from evaluation import DraftStore, Evaluator
from evaluation.scoring import Rate, p_better
from merging import Merger, ParentSet, load_tokenizer
from search import SearchConfig, run_search
from search.results import ResultsFolder
from search.space.sections import StopSection
from search.study.record import TrialRecord
from tests.benchmarks.machine import describe_machine

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
_LEVEL = 0.05


@dataclass(frozen=True)
class Raced:
    """A trial in the race: which problems it would have generated, in order, and whether it would have ended early."""

    record: TrialRecord
    order: Sequence[str]
    is_out: bool


def races(rates: Sequence[Mapping[str, Rate]], records: Sequence[TrialRecord], block: int) -> Iterator[Raced]:
    """Replay the race of trials, each against the best one before it."""
    best = 0
    for number in range(1, len(records)):
        before = rates[:number]
        contested = {place: -abs(mean(each[place] for each in before) - 0.5) for place in rates[0]}
        order = sorted(contested, key=contested.__getitem__, reverse=True)
        ends = range(block, len(order), block)
        out = next((end for end in ends if _is_worse(rates[number], rates[best], order[:end])), None)
        yield Raced(records[number], order[:out], out is not None)
        if sum(rates[number].values()) > sum(rates[best].values()):
            best = number


def _is_worse(trial: Mapping[str, Rate], best: Mapping[str, Rate], seen: Sequence[str]) -> bool:
    return p_better({place: best[place] for place in seen}, {place: trial[place] for place in seen}) < _LEVEL


def without_ascent(sampler: str, trials: int) -> SearchConfig:
    """Return the config of a search by a sampler without an ascent, which ends with its trials."""
    settings = {"ascent": None, "sampler": sampler, "stop": StopSection(proven=False), "trials": trials}
    return SearchConfig.load(CONFIG).updated("search", **settings)


def searched(config: SearchConfig) -> tuple[list[TrialRecord], list[Mapping[str, Rate]], list[str]]:
    """Run a search. Return its trials, their rates by the problems' places, and the ids of these."""
    with tempfile.TemporaryDirectory() as folder:
        run_search(config, folder)
        found = ResultsFolder.open(Path(folder))
        _, records, splits, _ = found.read()
        problems = found.splits["search"]
    trials = [record for record in records if record.kind == "trial"]
    return trials, [splits["search"].rates(record.search.outcomes) for record in trials], problems


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--blocks", type=int, nargs="+", default=[10, 30, 75])
    parser.add_argument("--sampler", default="tpe")
    given = parser.parse_args()
    print(f"{describe_machine()}\n")
    config = without_ascent(given.sampler, given.trials)
    trials, rates, problems = searched(config)
    winner = max(range(len(trials)), key=lambda number: sum(rates[number].values()))
    print("| problems per block | trials that end early | the best one | completions saved | seconds a trial | saved |")
    print("|---:|---:|---|---:|---:|---:|")
    for block in given.blocks:
        raced = list(races(rates, trials, block))
        out = [each for each in raced if each.is_out]
        saved = 1 - sum(len(each.order) for each in raced) / (len(rates[0]) * len(raced))
        kept = "lost" if trials[winner] in [each.record for each in out] else "kept"
        whole, racing = seconds(config, raced[5::5], problems, block)
        row = f"{block} | {len(out)} of {len(raced)} | {kept} | {saved:.0%} | {racing:.2f} instead of {whole:.2f}"
        print(f"| {row} | {1 - racing / whole:.0%} |", flush=True)


def seconds(config: SearchConfig, raced: Sequence[Raced], names: Sequence[str], block: int) -> tuple[float, float]:
    """Return the mean processor seconds of a trial that generates all problems at once, and of one in the race."""
    problems = config.evaluation.load_problems()
    recipe = config.space.recipe_at(raced[0].record.parameters)
    tokenizer = load_tokenizer(recipe.parents()[0])
    with (
        ParentSet.open(recipe) as parents,
        Evaluator(problems, allow_code_execution=True, max_new_tokens=config.evaluation.max_new_tokens) as evaluator,
    ):
        merger = Merger(parents)
        whole, blockwise = DraftStore(), DraftStore()

        def run(model: PreTrainedModel, parts: Sequence[Sequence[str]], drafts: DraftStore) -> None:
            for part in parts:
                evaluator.evaluate(model, tokenizer, problems=problems.subset(part), drafts=drafts)

        taken: list[tuple[float, float]] = []
        for each in raced:
            model = merger.apply(config.space.recipe_at(each.record.parameters))
            own = [names[int(place)] for place in each.order]
            blocks = [own[start : start + block] for start in range(0, len(own), block)]
            taken.append((_timed(run, model, [names], whole), _timed(run, model, blocks, blockwise)))
    return mean(first for first, _ in taken), mean(second for _, second in taken)


def _timed(work: Callable[..., object], *given: object) -> float:
    started = time.process_time()
    work(*given)
    return time.process_time() - started


if __name__ == "__main__":
    main()
