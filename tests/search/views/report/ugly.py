"""Results folders of searches that never ran, for what people look at: made through the real store, without models.

    python -m tests.search.views.report.ugly FOLDER [CASE ...]       # makes them, by default all

A model solves a problem if its skill exceeds the problem's difficulty, and luck; a trial's skill depends on its
parameters, so that importances and histories look like those of a search.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from evaluation import Outcome
from evaluation.problems import ProblemSet
from search import SearchConfig
from search.board.ranking import best, finalists
from search.board.search_verdict import last_look
from search.identity import COMPUTE_DTYPE
from search.results import ResultsFolder
from search.study.local_store import LocalStore
from search.study.looks import Looks
from search.study.outcomes import CODES, Split
from search.study.record import ASCENT, Kind, Scoring, SplitName, State, TrialRecord
from search.study.store import Workplace

_BEGAN = 1_760_000_000.0
_WORKERS = 4
LONG_NAMES = (
    "組織/とても長い名前の日本語コード生成モデル-指示調整済み-第二版-七十億パラメータ-v2.1",
    "organisation-with-a-very-long-name/deepseek-coder-6.7b-instruct-finetuned-on-everything-2024-09-first",
    "organisation-with-a-very-long-name/deepseek-coder-6.7b-instruct-finetuned-on-everything-2024-09-second",
    "организация/очень-длинное-имя-модели-для-программирования-на-питоне-дообученная",
    "مؤسسة/نموذج-لغوي-طويل-الاسم-لكتابة-البرامج",
    "emoji/👩‍👩‍👧‍👦🚀🚀🚀-merge-of-merges-of-merges-of-merges-of-merges",
    "z̷a̷l̷g̷o̷/m̷o̷d̷e̷l̷-̷w̷i̷t̷h̷-̷c̷o̷m̷b̷i̷n̷i̷n̷g̷-̷m̷a̷r̷k̷s̷",
    "<b>bold</b>/</script><script>alert(1)</script>",
)


@dataclass(frozen=True)
class Search:
    """What a search is like.

    Attributes:
        trials: how many were begun.
        problems: how many each set has.
        parents: their references.
        sets: how many problem sets there are; from two on each is an objective.
        samples: per problem.
        report_fraction: see the config.
        failed, pruned: the share of the trials that failed or were pruned.
        running: how many of the last trials are not over.
        completions: of how many of the best trials the files of completions are full; those of others are empty.
        parents_over: whether the parents are scored.
    """

    trials: int = 12
    problems: int = 40
    parents: Sequence[str] = ("org/text", "org/maths")
    sets: int = 1
    samples: int = 1
    report_fraction: float = 0.5
    failed: float = 0.08
    pruned: float = 0.05
    running: int = 0
    completions: int = 3
    parents_over: bool = True


CASES: Mapping[str, Search] = {
    "no_trial": Search(trials=0),
    "no_parent": Search(trials=0, parents_over=False),
    "all_failed": Search(trials=9, failed=1.0, pruned=0.0),
    "no_report": Search(report_fraction=0.0),
    "eight_parents": Search(trials=40, parents=LONG_NAMES),
    "three_objectives": Search(trials=60, sets=3),
    "twenty_samples": Search(trials=15, samples=20),
    "two_thousand_problems": Search(trials=60, problems=2000),
    "running": Search(trials=14, running=2),
    "large": Search(trials=500, problems=164),
}


def make(folder: Path, search: Search) -> Path:
    """Make the results folder of a search, and beside it its config and problems; return the results folder."""
    inputs = folder.with_name(f"{folder.name}-inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    config = SearchConfig.load(_config(inputs, search))
    problems = config.evaluation.load_problems()
    parts = dict(zip(("search", "report"), problems.split(search.report_fraction, 0), strict=True))
    asked = {"sha256": problems.digest, **{name: list(part.task_ids) for name, part in parts.items()}}
    identity = config.identity | {"problems": asked, "contents": {}}
    identity["evaluation"][COMPUTE_DTYPE] = "recipe"
    out = ResultsFolder.create(folder, config, identity)
    splits: dict[SplitName, ProblemSet] = {"search": parts["search"], "report": parts["report"]}
    how: dict[SplitName, Split] = {name: Split.of(part, search.samples) for name, part in splits.items()}
    models = _Models(search, config, splits)
    with out.working() as store:
        store.begin(models.references(), splits=how, planned=max(search.trials, 1), taken_over=models.trials())
        _finish(store, models, search)
        for worker in range(_WORKERS):
            store.describe_worker(f"worker-{worker}", Workplace(f"host-{worker // 2}", {"cpu": ""}), ["seccomp"], [])
        records = store.changed()[0]
    kept = [*finalists(records, search.completions), *(each for each in records if each.kind != "trial")]
    for record in records:
        for name in splits:
            if record.on(name).outcomes and record in kept:
                _write(out, record, name, splits[name], search.samples)
            elif record.on(name).outcomes:
                out.completions.save(record, name, ())
    return out.path


@contextlib.contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Let a worker be at work on a search while this lasts."""
    with ResultsFolder.open(path).working() as store, store.sign_in():
        yield


def _config(folder: Path, search: Search) -> Path:
    """Write a config and its problems; return the config's path."""
    sets = [f"set-{number}.jsonl" for number in range(search.sets)]
    for number, name in enumerate(sets):
        lines = [json.dumps(_problem(number, place)) for place in range(search.problems)]
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    models = [
        {
            "model": name,
            "parameters": {
                "density": {"low": 0.1, "high": 1.0, "knots": 3},
                "weight": {"low": 0.0, "high": 1.0, "knots": 2} if place else {"low": 0.0, "high": 1.5},
            },
        }
        for place, name in enumerate(search.parents)
    ]
    evaluation = {"problems": sets, "report_fraction": search.report_fraction, "samples": search.samples}
    evaluation |= {"temperature": 0.8} if search.samples > 1 else {}
    content = {
        "recipe": {"merge_method": "ties", "base_model": "org/base", "models": models, "dtype": "bfloat16"},
        "evaluation": evaluation,
        "search": {"trials": max(search.trials, 1), "sampler": "tpe"}
        | ({"objectives": "separate"} if search.sets > 1 else {}),
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def _problem(number: int, place: int) -> dict[str, str]:
    name = f"solve_{place}"
    return {
        "task_id": f"Set{number}/{place}",
        "prompt": f'def {name}(numbers, limit):\n    """Return how many numbers exceed the limit (case {place})."""\n',
        "entry_point": name,
        "canonical_solution": "    return sum(number > limit for number in numbers)\n",
        "test": f"def check(candidate):\n    assert candidate([1, 5], {place % 4}) is not None\n",
    }


class _Models:
    """The records of a search."""

    def __init__(self, search: Search, config: SearchConfig, splits: Mapping[SplitName, ProblemSet]) -> None:
        self._search, self._space, self._splits = search, config.space, splits
        self._draw = random.Random(0)
        self._difficulty = {
            name: [self._draw.gauss(0.0, 1.0) for _ in range(len(part) or 0)] for name, part in splits.items()
        }
        self._clock = [_BEGAN + worker for worker in range(_WORKERS)]

    def references(self) -> list[TrialRecord]:
        found = []
        for place, name in enumerate([*self._search.parents, "org/base", "average"]):
            kind: Kind = "average" if name == "average" else "parent"
            recipe = {"merge_method": "linear" if kind == "average" else "passthrough", "models": [{"model": name}]}
            record = TrialRecord(kind, 0 if kind == "average" else place, name, recipe=recipe)
            if self._search.parents_over:
                skill = {"org/base": -0.9, "average": 0.1}.get(name, -0.1 - 0.07 * place)
                record = replace(record, search=self._scored("search", skill), report=self._reported(skill))
            found.append(record)
        return found

    def trials(self) -> list[TrialRecord]:
        return [self._trial(number) for number in range(self._search.trials)]

    def reported(self, record: TrialRecord) -> TrialRecord:
        """Return a finalist with a score on the report split."""
        return replace(record, report=self._reported(self._skill(record) - 0.08))

    def _trial(self, number: int) -> TrialRecord:
        names = self._space.distributions()
        closeness = number / max(self._search.trials, 1)
        parameters = {
            name: min(max(self._draw.gauss(0.6, 0.35 * (1.1 - closeness)), kind.low), kind.high)  # type: ignore[attr-defined]
            for name, kind in names.items()
        }
        recipe = self._space.recipe_at(parameters).to_dict()
        record = TrialRecord(
            "trial", number, parameters=parameters, recipe=recipe, seen=number,
            proposed_by="warm start" if number == 0 else ASCENT if number < 4 else "tpe",
        )  # fmt: skip
        if number >= self._search.trials - self._search.running:
            began = Scoring("running", worker=f"worker-{number % _WORKERS}", started=self._clock[number % _WORKERS])
            return replace(record, search=began)
        luck = self._draw.random()
        state: State = "failed" if luck < self._search.failed else "complete"
        state = "pruned" if state == "complete" and luck > 1 - self._search.pruned else state
        return replace(record, search=self._scored("search", self._skill(record), state, number))

    def _skill(self, record: TrialRecord) -> float:
        """Return a skill that rests on two parameters above all."""
        values = list(record.parameters.values())
        weights = [1.6, 0.9] + [0.05] * len(values)
        return 0.5 - sum(weight * (float(value) - 0.6) ** 2 for weight, value in zip(weights, values, strict=False))

    def _reported(self, skill: float) -> Scoring | None:
        return self._scored("report", skill) if len(self._splits["report"]) else None

    def _scored(self, split: SplitName, skill: float, state: State = "complete", number: int = 0) -> Scoring:
        worker = number % _WORKERS
        seconds = {"merging": 0.4, "generation": 18 + 6 * self._draw.random(), "scoring": 2 + self._draw.random()}
        started = self._clock[worker]
        seconds["total"] = sum(seconds.values()) + 0.2
        self._clock[worker] += seconds["total"] + 2 * self._draw.random()
        plain = Scoring(state, worker=f"worker-{worker}", started=started, seconds=seconds)
        if state == "failed":
            error = "merged tensor model.layers.3.mlp.down_proj.weight holds NaN; a weight is too large"
            return replace(plain, error=error, seconds={"total": 0.7})
        if state == "pruned":
            reason = "0.71 nats per token below the best trial"
            return replace(plain, error=reason, log_likelihood=-1.2, seconds={"total": 3.1})
        outcomes = "".join(
            self._outcome(skill, hard) for hard in self._difficulty[split] for _ in range(self._search.samples)
        )
        how = Split.of(self._splits[split], self._search.samples)
        of_sets = tuple(group.mean for group in how.groups(outcomes))
        score = sum(of_sets) / len(of_sets)
        return replace(
            plain, outcomes=outcomes, score=score, scores=of_sets if self._search.sets > 1 else (score,),
            log_likelihood=-0.3 - 0.2 * self._draw.random(), tokens=120 * len(outcomes),
        )  # fmt: skip

    def _outcome(self, skill: float, difficulty: float) -> str:
        passes = self._draw.random() < 1 / (1 + math.exp(-4 * (skill - difficulty)))
        return CODES["passed"] if passes else CODES["timeout"] if self._draw.random() < 0.1 else CODES["failed"]


def _finish(store: LocalStore, models: _Models, search: Search) -> None:
    """Score the finalists on the report split, as at the end of a search."""
    records = store.changed()[0]
    if search.running or best(records) is None or not search.report_fraction:
        return
    chosen = finalists(records, 3)
    if search.sets == 1:
        looks = store.looks
        if look := last_look(records, store.splits, Looks(looks.planned), 3):
            store.begin_look(look, looks)
    with store._writing():
        for record in chosen:
            store._save(models.reported(record))


def _write(out: ResultsFolder, record: TrialRecord, split: SplitName, problems: ProblemSet, samples: int) -> None:
    """Write completions that belong to the outcomes of a record."""
    statuses = {code: status for status, code in CODES.items()}
    right = "    return sum(number > limit for number in numbers)\n"
    wrong = f"    return len([number for number in numbers if number >= limit + {record.number}])\n"
    error = "AssertionError: candidate([1, 5], 1) is not None"
    outcomes = [
        Outcome(problems.task_ids[place // samples], passed, statuses[code], "" if passed else error, text, 24)
        for place, code in enumerate(record.on(split).outcomes)
        for passed, text in [(True, right) if code == CODES["passed"] else (False, wrong)]
    ]
    out.completions.save(record, split, outcomes)


def main(words: Sequence[str], tell: Callable[[str], None] = print) -> None:
    """Make the folders that are asked for."""
    for name in words[1:] or CASES:
        tell(str(make(Path(words[0]) / name, CASES[name])))


if __name__ == "__main__":
    main(sys.argv[1:])
