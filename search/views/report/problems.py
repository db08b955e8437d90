"""Problems: which model solves which, and what the best trial wins and loses against the best parent.

Guarantees: all that a model wrote is in the page as data, never as HTML.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from evaluation.scoring import paired_test
from search.board.names import NAME_WIDTH, displayed_name, record_name
from search.board.ranking import best_parent, ranked
from search.board.search_verdict import shown_p
from search.errors import SearchError
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord
from search.views.report.answers import Answers, Model, answers_data
from search.views.report.section import Section, rendered
from search.views.table import parents_of

if TYPE_CHECKING:
    from search.completion_files import Completion
    from search.evidence import SearchEvidence

MOST_MODELS: Final = 1_000
"""The most models that the matrix has columns for."""
_DAMAGED: Final = "its file is damaged"
_ON_REPORT: Final = "its answer on the report split counts, and is shown there"
_UNBROKEN: Final = 10**6  # wider than any name
SPLITS: Final[tuple[SplitName, ...]] = ("search", "report", "confirm")


@dataclass(frozen=True)
class _Versus:
    """The best trial against the best parent, in words, and the ids of the problems."""

    trial: str
    parent: str
    split: str
    won: Sequence[str]
    lost: Sequence[str]
    p_value: str


def problems(evidence: SearchEvidence) -> Section | None:
    """Return the section with the problems won and lost; None if no model has outcomes."""
    records = _shown(evidence)
    if not records:
        return None
    return Section(
        "problems",
        "Problems won and lost",
        rendered("problems.html", versus=_versus(evidence)),
        _data(evidence, records),
        "problems.js",
    )


def matrix(evidence: SearchEvidence) -> Section | None:
    """Return the section with a row per problem and a column per model; None if no model has outcomes.

    Its script reads the data of the section `problems`.
    """
    shown = _shown(evidence)
    if not shown:
        return None
    left_out = sum(bool(record.search.outcomes) for record in evidence.board.records) - len(shown)
    html = rendered("matrix.html", left_out=left_out)
    return Section("matrix", "Problems and models", html, {}, "matrix.js")


def _shown(evidence: SearchEvidence) -> list[TrialRecord]:
    """Return the records with outcomes, the best first: all reference models, and as many trials as have columns."""
    found = [record for record in evidence.board.records if record.search.outcomes]
    trials = [record for record in found if record.kind == "trial"]
    references = [record for record in found if record.kind != "trial"]
    return ranked([*references, *trials[: MOST_MODELS - len(references)]])


def _data(evidence: SearchEvidence, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the data of both sections: the models that matter most first, so that their texts have room."""
    first, second = evidence.winner, best_parent(records)
    order = sorted(records, key=lambda record: _matters(record, first, second))
    splits = [split for split in SPLITS if evidence.tasks.get(split)]
    damaged: list[str] = []
    models = _models(evidence, order, splits, damaged)
    tasks: dict[str, Sequence[str]] = {split: evidence.tasks[split] for split in splits}
    prompts = {task: problem.prompt for task, problem in evidence.problems.items()}
    keys = [record.key for record in order]
    return answers_data(models, tasks, prompts) | {
        "columns": [keys.index(record.key) for record in records],
        "first": keys.index(first.key) if first and first.key in keys else None,
        "second": keys.index(second.key) if second else None,
        "notes": [note for note in (evidence.no_problems, *_notes_on_missing(models), *damaged) if note],
    }


def _matters(record: TrialRecord, first: TrialRecord | None, second: TrialRecord | None) -> int:
    """Return the place of a record in the order of need: the lowest is for those whose texts matter most."""
    if record in (first, second):
        return 0
    return 1 if record.on("report").outcomes else 2


def _models(
    evidence: SearchEvidence, records: Sequence[TrialRecord], splits: Sequence[SplitName], damaged: list[str]
) -> list[Model]:
    names = parents_of(evidence.board, NAME_WIDTH)
    words = parents_of(evidence.board, _UNBROKEN)
    found = []
    for record in records:
        is_written = record.kind != "trial" or record == evidence.winner or bool(record.on("report").outcomes)
        answers: dict[str, Answers] = {
            split: Answers(*outcomes, *_written(evidence, record, split, is_written, damaged))
            for split in splits
            if (outcomes := _outcomes(record, split, evidence.splits[split]))[0]
        }
        word = str(record.number) if record.kind == "trial" else words.get(record.name, record.name)
        name = displayed_name(record, names)
        found.append(Model(name, record.kind, shlex.quote(f"{evidence.folder}:{word}"), answers))
    return found


def _outcomes(record: TrialRecord, split: SplitName, how: Split) -> tuple[str, int]:
    """Return the outcomes by problem, and how many each problem has: in a confirmation, one per complete round."""
    found = record.on(split).outcomes
    if split != "confirm":
        return found, how.samples
    rounds = len(found) // how.problems
    return replace(how, samples=rounds).of_rounds(found), rounds


def _written(
    evidence: SearchEvidence, record: TrialRecord, split: SplitName, is_written: bool, damaged: list[str]
) -> tuple[Sequence[Completion] | None, str]:
    """Return the completions that are to be shown, and why some or all are missing."""
    if why := evidence.no_completions(record, split):
        return None, why
    try:
        written = evidence.completions(record, split) if is_written else ()
    except SearchError as error:
        damaged.append(str(error))
        return None, _DAMAGED
    return written or None, _ON_REPORT if written and split == "confirm" else ""


def _notes_on_missing(models: Sequence[Model]) -> list[str]:
    """Return why completions are not kept, in sentences that say of how many models."""
    missing = [{it.missing for it in model.answers.values() if it.written is None} - {"", _DAMAGED} for model in models]
    counts = Counter(why for reasons in missing for why in reasons)
    return [f"What {count} of {len(models)} models wrote is missing: {why}." for why, count in counts.items()]


def _versus(evidence: SearchEvidence) -> _Versus | None:
    """Return what the best trial wins and loses, on the report split, or on the search split without outcomes there."""
    first, second = evidence.winner, best_parent(evidence.records)
    if not first or not second:
        return None
    splits: list[SplitName] = [split for split in ("report", "search") if evidence.tasks.get(split)]
    both = [split for split in splits if first.on(split).outcomes and second.on(split).outcomes]
    if not both:
        return None
    how, tasks = evidence.splits[both[0]], evidence.tasks[both[0]]
    test = paired_test(*(how.rates(record.on(both[0]).outcomes) for record in (first, second)))
    won, lost = ([tasks[int(place)] for place in places] for places in (test.won, test.lost))
    p_value = shown_p(test.p_value) if both[0] == "report" else ""
    name = displayed_name(second, parents_of(evidence.board, NAME_WIDTH))
    return _Versus(record_name(first), name, both[0], won, lost, p_value)
