"""How often a search says "proven": where no merge is better than the parents, and where some are.

    python -m tests.benchmarks.verdicts [--replays 1000]

Each replay is a search whose models are drawn instead of scored: on the problems on which models differ at all, each
model passes with a chance of its own. Everything that decides is the product's: which trial is looked at and when, the
level of each look, the stop rules and the verdict. A search that ends without proof is resumed twice, with more trials;
if it still is "not proven", its finalists are confirmed in four rounds, on as many new problems as MBPP+ has. In each
round a model generates what it generated before on four of five problems, and on the others passes by its chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.scoring import wilson_interval
from search.board.ranking import unreported
from search.board.round_looks import confirmation_ended, confirmed, round_look
from search.board.search_verdict import SearchVerdict, better_finalists, last_look, next_look, search_verdict, unscored
from search.space.sections import StopSection
from search.stopping import SearchSoFar, ended_by
from search.study.looks import Look, Looks
from search.study.outcomes import Split
from search.study.record import Kind, Scoring, SplitName, TrialRecord
from tests.benchmarks.machine import describe_machine

_Passed: TypeAlias = npt.NDArray[np.bool_]

_FINALISTS = 3
_ROUNDS, _NEW_PROBLEMS, _PERSISTENCE = 4, 378, 0.8


@dataclass(frozen=True)
class World:
    """What a replayed search is of.

    Attributes:
        name: of it in the table.
        problems: on each split.
        parents: how many; all are equally good.
        gain: of good trials over the parents.
        good: the share of good trials; all others are as good as the parents.
        discordance: on which share of the problems two models differ.
        samples: per problem.
        trials: in all, when the search is made and at each resumption.
    """

    name: str
    problems: int
    parents: int = 1
    gain: float = 0.0
    good: float = 0.0
    discordance: float = 0.3
    samples: int = 1
    trials: tuple[int, ...] = (40, 100, 200)


NO_GAIN = (
    World("no gain, 1 parent", 82),
    World("no gain, 1 parent", 150),
    World("no gain, 1 parent", 500),
    World("no gain, 3 parents", 150, parents=3),
    World("no gain, 5 samples per problem", 82, samples=5),
)
GAIN = (
    World("+10 points, 1 of 10 trials", 500, parents=2, gain=0.1, good=0.1),
    World("+10 points, 1 of 10 trials", 150, parents=2, gain=0.1, good=0.1),
    World("+20 points, 1 of 10 trials", 82, parents=2, gain=0.2, good=0.1),
)


class Replay:
    """One search, whose models are drawn.

    Args:
        world: what it is of.
        seed: of all that is drawn.

    Attributes:
        searched: the verdict before the confirmation.
    """

    searched: SearchVerdict

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._random = world, np.random.default_rng(seed)
        self._splits: Mapping[SplitName, Split] = {
            "search": Split(world.samples, (), world.problems),
            "report": Split(world.samples, (), world.problems),
            "confirm": Split(_ROUNDS, (), world.problems + _NEW_PROBLEMS),
        }
        kinds = [1 - 2 * world.discordance, 2 * world.discordance]
        # Models differ only on open problems; the others are passed by all of them, or by none.
        self._open = {name: self._random.choice(2, how.problems, p=kinds) == 1 for name, how in self._splits.items()}
        self._easy = {name: self._random.random(how.problems) < 0.5 for name, how in self._splits.items()}
        for known in (self._open, self._easy):  # a confirmation begins with the problems of the report split
            known["confirm"][: world.problems] = known["report"]
        self._gains: dict[str, float] = {}
        self._records: dict[str, TrialRecord] = {}
        self._looks = Looks(world.trials[0])

    def run(self) -> SearchVerdict:
        """Run the search to its end, resume it until it has proven something or has had all its trials; confirm it."""
        self.searched = self._search_all()
        return self._confirm() if self.searched.ruling == "not proven" else self.searched

    def _search_all(self) -> SearchVerdict:
        for number in range(self._world.parents):
            self._add("parent", number, 0.0)
        for trials in self._world.trials:
            self._search(trials)
            verdict = search_verdict(self._all, self._splits, self._looks)
            if verdict.ruling == "proven":
                break
        return verdict

    @property
    def is_false(self) -> bool:
        """Whether the trial that the verdict is about is no better than the parents."""
        return self._gains[f"trial-{search_verdict(self._all, self._splits, self._looks).trial}"] <= 0

    @property
    def trials(self) -> int:
        """How many trials it has had."""
        return len(self._records) - self._world.parents

    @property
    def _all(self) -> Sequence[TrialRecord]:
        return list(self._records.values())

    def _search(self, trials: int) -> None:
        while not ended_by(SearchSoFar(self._all, self._splits, self._looks, trials), StopSection()):
            is_good = self._random.random() < self._world.good
            self._add("trial", self.trials, self._world.gain * is_good)
            self._look(next_look(self._all, self._splits, self._looks))
        self._look(last_look(self._all, self._splits, self._looks, _FINALISTS))
        self._report(unreported(self._all, _FINALISTS))

    def _confirm(self) -> SearchVerdict:
        chosen = better_finalists(self._all, _FINALISTS)
        greedy = {record.key: self._first(record) for record in confirmed(self._all, chosen)}
        while chosen and not confirmation_ended(self._all, self._splits, self._looks):
            for key, first in greedy.items():
                outcomes = self._records[key].on("confirm").outcomes + self._again(first, self._gains[key])
                is_over = len(outcomes) == _ROUNDS * self._splits["confirm"].problems
                scoring = Scoring("complete" if is_over else "running", outcomes)
                self._records[key] = self._records[key].scored("confirm", scoring)
            self._look(round_look(self._all, self._splits, self._looks, chosen))
        return search_verdict(self._all, self._splits, self._looks)

    def _first(self, record: TrialRecord) -> _Passed:
        """Return which problems of the confirmation a model passes at first: of the report split those that it did."""
        passed = self._passed("confirm", self._gains[record.key], 1)[:, 0]
        reported = record.on("report").outcomes[:: self._world.samples]
        passed[: len(reported)] = [outcome == "p" for outcome in reported]
        return passed

    def _again(self, first: _Passed, gain: float) -> str:
        persists = self._random.random(len(first)) < _PERSISTENCE
        return _encoded(np.where(persists, first, self._passed("confirm", gain, 1)[:, 0]))

    def _look(self, look: Look | None) -> None:
        if look:
            self._looks = replace(self._looks, made=(*self._looks.made, look))
            self._report(unscored(self._all, look))

    def _add(self, kind: Kind, number: int, gain: float) -> None:
        record = TrialRecord(kind, number, f"{kind}-{number}", recipe=_recipe(kind, number))
        self._gains[record.key] = gain
        self._records[record.key] = record.scored("search", self._scoring("search", gain))

    def _report(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            scoring = self._scoring("report", self._gains[record.key])
            self._records[record.key] = record.scored("report", scoring)

    def _scoring(self, split: SplitName, gain: float) -> Scoring:
        passed = self._passed(split, gain, self._world.samples)
        score = float(passed.mean())
        return Scoring("complete", _encoded(passed), score, (score,))

    def _passed(self, split: SplitName, gain: float, samples: int) -> _Passed:
        """Return which samples of each problem pass: (problems, samples)."""
        chance = 0.5 + gain / (2 * self._world.discordance)
        drawn = self._random.random((len(self._open[split]), samples)) < chance
        return np.where(self._open[split][:, None], drawn, self._easy[split][:, None])


def _encoded(passed: _Passed) -> str:
    return np.where(passed, b"p", b"f").tobytes().decode()


def _recipe(kind: Kind, number: int) -> dict[str, object]:
    return {"models": [{"model": f"{kind}-{number}"}]}


def claims(world: World, replays: int, first: int = 0) -> Iterator[tuple[bool, bool]]:
    """Yield for each replay whether "proven" was said, and whether of a trial that is no better."""
    for seed in range(first, first + replays):
        _, proven, is_false = _claim(world, seed)
        yield proven, is_false


def _claim(world: World, seed: int) -> tuple[bool, bool, bool]:
    """Return the same of one replay, after whether "proven" was said before the confirmation."""
    replay = Replay(world, seed)
    proven = replay.run().ruling == "proven"
    return replay.searched.ruling == "proven", proven, proven and replay.is_false


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=1000)
    replays = parser.parse_args().replays
    print(f"{describe_machine()}\n\n{replays} replays each\n")
    print("| world | report problems | proven by the search | in all | of a trial that is no better [95%] | needed |")
    print("|---|---|---|---|---|---|")
    pool = ProcessPoolExecutor()
    for world in (*NO_GAIN, *GAIN):
        found = list(pool.map(partial(_claim, world), range(replays), chunksize=10))
        searched, proven, false = (sum(each) for each in zip(*found, strict=True))
        low, high = wilson_interval(false, replays)
        needed = "proven in 90%" if world == GAIN[0] else "" if world.gain else "at most 6.5%"
        wrong = f"{false / replays:.1%} [{low:.1%}, {high:.1%}]"
        shown = f"{searched / replays:.1%} | {proven / replays:.1%} | {wrong} | {needed}"
        print(f"| {world.name} | {world.problems} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
