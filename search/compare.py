"""Two models side by side: reports that `merge-search evaluate --json` printed, or trials of searches.

Guarantees: only problems that both were scored on are compared. Two trials are compared on the report split where both
have a score on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from evaluation.scoring import Group, Interval, PairedTest, Rate, interval, paired_test
from search.database import storage_errors
from search.errors import SearchError
from search.numbers import LABEL_WIDTH, parent_names
from search.outcomes import Split
from search.results import ResultsFolder
from search.study import KIND, NAME, OUTCOMES, RECIPE, Studies, quiet

_WHAT = "give a report (of merge-search evaluate --json), or a trial as RESULTS:NUMBER"


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's results, by split and task id; those of a report are of no split ("")."""

    name: str
    splits: Mapping[str, Mapping[str, Rate]]

    @property
    def every(self) -> Mapping[str, Rate]:
        """The results on all splits."""
        return {task: rate for rates in self.splits.values() for task, rate in rates.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two models did on the same problems.

    Attributes:
        names: of both.
        split: ``report`` or ``search``, if the problems are those of one.
        problems: how many.
        scores: pass@1 of both.
        intervals: their 95% intervals.
        test: what distinguishes the first from the second.
    """

    names: tuple[str, str]
    split: str
    problems: int
    scores: tuple[float, float]
    intervals: tuple[Interval, Interval]
    test: PairedTest


def compare(first: Scored, second: Scored) -> Comparison:
    """Compare two models. Raises SearchError if no problem is common to them."""
    both = (first, second)
    split = next((name for name in ("report", "search") if all(name in each.splits for each in both)), "")
    mine, theirs = (each.splits[split] if split else each.every for each in both)
    common = [task for task in mine if task in theirs]
    if not common:
        raise SearchError(f"{first.name} and {second.name} have no problem in common")
    groups = [Group(1.0, [rates[task] for task in common]) for rates in (mine, theirs)]
    return Comparison(
        (first.name, second.name),
        split,
        len(common),
        (groups[0].mean, groups[1].mean),
        (interval(groups[:1]), interval(groups[1:])),
        paired_test(mine, theirs),
    )


def load_scored(reference: str) -> Scored:
    """Read a report's file, or a trial given as RESULTS:NUMBER. Raises SearchError."""
    folder, _, number = reference.rpartition(":")
    if number.isdecimal() and Path(folder).is_dir():
        return _trial(ResultsFolder.open(Path(folder)), int(number), reference)
    if not Path(reference).is_file():
        raise SearchError(f"{reference}: no such file; {_WHAT}")
    return _report(Path(reference))


def _report(file: Path) -> Scored:
    try:
        problems = json.loads(file.read_bytes())["problems"]
        rates = {task: _rate(found) for task, found in problems.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise SearchError(f"{file}: holds no report; {_WHAT}") from None
    return Scored(str(file), {"": rates})


def _rate(found: Mapping[str, Any]) -> Rate:
    samples = found.get("samples", [found])
    return sum(bool(sample["passed"]) for sample in samples) / len(samples)


def _trial(folder: ResultsFolder, number: int, reference: str) -> Scored:
    with quiet(), storage_errors(folder), closing(Studies.open(folder)) as studies:
        ended = [*studies.baseline_trials(), *studies.trials()]
        trial = next((each for each in ended if studies.number(each) == number), None)
        if trial is None:
            begun = [*studies.baselines.get_trials(deepcopy=False), *studies.search.get_trials(deepcopy=False)]
            is_there = any(studies.number(each) == number for each in begun)
            last = max(map(studies.number, ended), default=0)
            reason = "is not over yet" if is_there else f"there is no such trial; the last that is over is {last}"
            raise SearchError(f"{reference}: {reason}; see the leaderboard")
        if OUTCOMES not in trial.user_attrs:
            how = "was screened out" if trial.state is TrialState.PRUNED else "failed"
            raise SearchError(f"{reference}: {how}, so it has no outcomes to compare; see the leaderboard")
        letters = {"search": trial.user_attrs[OUTCOMES], "report": studies.reports().get(number, "")}
        task_ids = folder.splits
        found = {name: _by_task(studies.split(name), each, task_ids[name]) for name, each in letters.items() if each}
        parents = [each.user_attrs[RECIPE] for each in studies.baseline_trials() if each.user_attrs[KIND] == "parent"]
    if NAME not in trial.user_attrs:
        return Scored(reference, found)
    called = trial.user_attrs[NAME]
    return Scored(f"{reference} ({parent_names(parents, LABEL_WIDTH).get(called, called)})", found)


def _by_task(split: Split, letters: str, task_ids: list[str]) -> dict[str, Rate]:
    return {task_ids[int(place)]: rate for place, rate in split.rates(letters).items()}
