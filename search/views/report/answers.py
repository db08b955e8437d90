"""Answers: what models wrote for problems, and what became of it, as data for the scripts of the page.

Guarantees: a text is in the data once, however many models wrote it. Of a long text, the data has the beginning and the
length. If the texts of all models are too much, those of the last models are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, get_args

from evaluation import Status
from search.study.outcomes import CODES

if TYPE_CHECKING:
    from search.completion_files import Completion

MOST_CHARACTERS: Final = 8_000
"""The most characters of a text that are shown."""
MOST_LINES: Final = 400
"""The same, in lines."""
MOST_SHOWN: Final = 3
"""The most samples of a problem that are shown, among them one that passed and one that did not."""
ROOM: Final = 6_000_000
"""The most characters of all texts together; deflated, they take about a sixth of that."""


@dataclass(frozen=True)
class Answers:
    """What one model wrote on one split.

    Attributes:
        outcomes: `samples` characters per problem, in the split's order; see `search.study.outcomes`.
        samples: how many samples each problem has.
        written: the completions, problem by problem; None if they are not to be shown, or not kept.
        missing: why completions are missing, in words; empty if they are left out to keep the page small.
    """

    outcomes: str
    samples: int = 1
    written: Sequence[Completion] | None = field(default=None, repr=False)
    missing: str = ""


@dataclass(frozen=True)
class Model:
    """A model and its answers.

    Attributes:
        name: the displayed name.
        kind: ``trial``, ``parent``, ``average``, or ``report`` for a report of `merge-search evaluate`.
        word: its name as an argument of `merge-search compare`, as a shell takes it.
        answers: its answers by split; a split without outcomes has no entry.
    """

    name: str
    kind: str
    word: str
    answers: Mapping[str, Answers]


def answers_data(
    models: Sequence[Model], tasks: Mapping[str, Sequence[str]], prompts: Mapping[str, str], room: int = ROOM
) -> dict[str, Any]:
    """Return models, problems and texts as plain data.

    Args:
        models: the models, those whose texts matter most first.
        tasks: the ids of the problems of each split, in the order of the outcomes.
        prompts: the known prompts, by task id.
        room: how many characters all texts may have.
    """
    texts = _Texts()
    splits = {
        split: {
            "tasks": list(ids),
            "prompts": [texts.add(prompts[task]) if task in prompts else -1 for task in ids],
        }
        for split, ids in tasks.items()
    }
    return {
        "splits": splits,
        "models": [_model(model, tasks, texts, room) for model in models],
        "texts": texts.shown,
        "cut": texts.cut,
        "statuses": {CODES[status]: status.replace("_", " ") for status in get_args(Status)},
    }


class _Texts:
    """Texts, each once, by number."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.cut: dict[int, int] = {}
        self.size = 0
        self._numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Return the number of a text."""
        number = self._numbers.setdefault(text, len(self._numbers))
        if number == len(self.shown):
            beginning = "".join(text[:MOST_CHARACTERS].splitlines(keepends=True)[:MOST_LINES])
            if len(beginning) < len(text):
                self.cut[number] = len(text)
            self.shown.append(beginning)
            self.size += len(beginning)
        return number


def _model(model: Model, tasks: Mapping[str, Sequence[str]], texts: _Texts, room: int) -> dict[str, Any]:
    shown = {
        split: _written(found.written, tasks[split], texts)
        for split, found in model.answers.items()
        if found.written is not None and texts.size < room
    }
    return {
        "name": model.name,
        "kind": model.kind,
        "word": model.word,
        "outcomes": {split: found.outcomes for split, found in model.answers.items()},
        "samples": {split: found.samples for split, found in model.answers.items()},
        "answers": shown,
        "missing": {
            split: found.missing
            for split, found in model.answers.items()
            if found.missing and (found.written is None or split in shown)
        },
    }


def _written(written: Sequence[Completion], tasks: Sequence[str], texts: _Texts) -> list[list[int]]:
    """Return the shown samples of each problem: for each sample its number, and the numbers of its text and error."""
    by_task: dict[str, list[Completion]] = {}
    for completion in written:
        by_task.setdefault(completion.task_id, []).append(completion)
    return [_samples(by_task.get(task, ()), texts) for task in tasks]


def _samples(samples: Sequence[Completion], texts: _Texts) -> list[int]:
    passed = [each.status == "passed" for each in samples]
    first = {passed.index(state) for state in (True, False) if state in passed}
    others = [number for number in range(len(samples)) if number not in first]
    chosen = sorted([*first, *others[: MOST_SHOWN - len(first)]])
    pairs = [(number, samples[number]) for number in chosen]
    return [value for number, it in pairs for value in (number, texts.add(it.completion), texts.add(it.detail))]
