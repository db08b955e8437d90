"""The page of two models: their scores, and both answers to each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from search.board.names import NAME_WIDTH, displayed_name
from search.board.search_verdict import shown_p
from search.completion_files import Completion
from search.study.outcomes import CODES
from search.views.report.answers import Answers, Model, answers_data
from search.views.report.page import page_of
from search.views.report.section import Section, rendered
from search.views.table import parents_of

if TYPE_CHECKING:
    from search.board.compare import Comparison
    from search.evidence import SearchEvidence
    from search.study.record import SplitName, TrialRecord


@dataclass(frozen=True)
class Answered:
    """What one model wrote, and what became of it.

    Attributes:
        name: what the page calls it.
        outcomes: by task id, one character per sample; see `search.study.outcomes`.
        written: its completions, as far as they were kept.
        prompts: the known prompts, by task id.
        note: why problems are missing, in a sentence.
        missing: why completions are missing, in words, by split.
    """

    name: str
    outcomes: Mapping[str, str]
    written: Sequence[Completion] = field(repr=False)
    prompts: Mapping[str, str] = field(default_factory=dict, repr=False)
    note: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_report(cls, name: str, report: Mapping[str, Any]) -> Self:
        """Return what a report of `merge-search evaluate --json` says, given as plain data."""
        samples = {task: found.get("samples", [found]) for task, found in report["problems"].items()}
        outcomes = {task: "".join(CODES[_status(each)] for each in own) for task, own in samples.items()}
        return cls(name, outcomes, [_completion(task, each) for task, own in samples.items() for each in own])

    @classmethod
    def of_record(cls, record: TrialRecord, evidence: SearchEvidence) -> Self:
        """Return what a model of a search wrote on the search and the report split. Raises SearchError."""
        outcomes: dict[str, str] = {}
        written: list[Completion] = []
        missing: dict[str, str] = {}
        splits: tuple[SplitName, ...] = ("search", "report")
        for split in splits:
            found, samples = record.on(split).outcomes, evidence.splits[split].samples
            each = (found[start : start + samples] for start in range(0, len(found), samples))
            outcomes |= dict(zip(evidence.tasks.get(split, ()), each, strict=False))
            written += evidence.completions(record, split)
            if found and (why := evidence.no_completions(record, split)):
                missing[split] = why
        prompts = {task: problem.prompt for task, problem in evidence.problems.items()}
        names = parents_of(evidence.board, NAME_WIDTH)
        name = displayed_name(record, names)
        return cls(name, outcomes, written, prompts, evidence.no_problems, missing)


def comparison_page(found: Comparison, answered: tuple[Answered, Answered], prompts: Mapping[str, str]) -> str:
    """Return the page of two models.

    Args:
        found: the comparison of their outcomes.
        answered: what each of them wrote.
        prompts: further prompts, by task id.
    """
    known = {**answered[0].prompts, **answered[1].prompts, **prompts}
    notes = list(dict.fromkeys(each.note for each in answered if each.note))
    if not known and not notes:
        notes = ["Reports hold no prompts; --problems shows them."]
    notes += [f"What {each.name} wrote is missing: {why}." for each in answered if (why := _missing(each, found))]
    names = tuple(each.name for each in answered)
    names = names if len(set(names)) == len(names) else found.names
    models = [_model(name, each, found) for name, each in zip(names, answered, strict=True)]
    data = answers_data(
        models, {found.split: found.tasks}, {task: known[task] for task in found.tasks if task in known}
    )
    html = rendered("comparison.html", found=found, names=names, p_value=shown_p(found.test.p_value))
    sections = [
        Section("scores", "Scores", html),
        Section(
            "problems",
            "Problems",
            rendered("both.html", won=found.test.won, lost=found.test.lost),
            data | {"columns": [0, 1], "first": 0, "second": 1, "notes": notes},
            "problems.js",
        ),
    ]
    return page_of(" against ".join(names), sections, figures=False)


def _model(name: str, answered: Answered, found: Comparison) -> Model:
    own = [answered.outcomes[task] for task in found.tasks]
    samples = max(map(len, own))
    wanted = set(found.tasks)
    written = [completion for completion in answered.written if completion.task_id in wanted]
    outcomes = "".join(each.ljust(samples, "-") for each in own)
    return Model(
        name, "report", "", {found.split: Answers(outcomes, samples, written or None, _missing(answered, found))}
    )


def _missing(answered: Answered, found: Comparison) -> str:
    """Return why completions are missing on the split that is compared, in words; empty if all are there."""
    return next((why for split, why in answered.missing.items() if found.split in (split, "")), "")


def _completion(task: str, sample: Mapping[str, Any]) -> Completion:
    text, tokens, detail = sample.get("completion", ""), sample.get("completion_tokens", 0), sample.get("detail", "")
    return Completion(task, text, _status(sample), tokens, detail)


def _status(sample: Mapping[str, Any]) -> Any:
    """Return the status of a sample of a report, which may say only whether it passed."""
    status = sample.get("status")
    return status if status in CODES else "passed" if sample["passed"] else "failed"
