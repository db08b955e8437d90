"""The evidence: all that the report reads of a search. Sections read this and nothing else.

Guarantees: opening it writes nothing, and downloads no model. Anything that is no longer available (problems, files of
completions) is empty, and a sentence says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from search.board.leaderboard import Leaderboard
from search.completion_files import COMPLETIONS, Completion
from search.errors import SearchError
from search.study.outcomes import Split
from search.study.record import TAKEN_OVER, SplitName, TrialRecord

if TYPE_CHECKING:
    from evaluation.problems import Problem
    from search.layer_values import Curve
    from search.results import ResultsFolder
    from search.space.space import SearchSpace
    from search.study.store import Workplace

# The most trials whose layers a page shows, and the most values of all their curves.
_MOST_CURVES, _MOST_VALUES = 200, 100_000
ReadCompletions: TypeAlias = Callable[[TrialRecord, SplitName], Sequence[Completion]]


def _nothing_written(record: TrialRecord, split: SplitName) -> Sequence[Completion]:  # noqa: ARG001
    return ()


@dataclass(frozen=True)
class Layers:
    """The parameters of merges over the layers.

    Attributes:
        curves: the curves of the winner and the best trials, by trial number.
        no_layers: why the curves have knots instead of layers, in a sentence; empty if they have layers.
    """

    curves: Mapping[int, Sequence[Curve]] = field(default_factory=dict)
    no_layers: str = ""


@dataclass(frozen=True)
class SearchEvidence:
    """What is known of a search.

    Attributes:
        name: the search's name.
        folder: its results folder, as commands name it.
        board: its leaderboard, which has only records that are over.
        records: all records, by kind and number, including those that are not over.
        splits: how the outcomes on each split are read.
        tasks: the ids of the problems of each split, in the order of its outcomes.
        identity: the search's identity; empty if it has not begun.
        config_text: the config, as it was given.
        completions: returns what a model wrote on the problems of a split (for ``confirm``, in the first round); empty
            if that is not kept.
        has_completions: returns whether they are kept.
        problems: the problems by task id; empty if they cannot be loaded.
        no_problems: why there are none, in a sentence; empty if there are some.
        space: the search space; None if the search has not begun.
        layers: the parameters of the best trials over the layers.
        workplaces: where its workers are and were, by worker.
        is_at_work: whether a worker is at work now.
    """

    name: str
    folder: Path
    board: Leaderboard
    records: tuple[TrialRecord, ...] = ()
    splits: Mapping[SplitName, Split] = field(default_factory=dict)
    tasks: Mapping[SplitName, Sequence[str]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    completions: ReadCompletions = _nothing_written
    has_completions: Callable[[TrialRecord, SplitName], bool] = lambda *_: True
    problems: Mapping[str, Problem] = field(default_factory=dict)
    no_problems: str = ""
    space: SearchSpace | None = None
    layers: Layers = Layers()
    workplaces: Mapping[str, Workplace] = field(default_factory=dict)
    is_at_work: bool = False

    @classmethod
    def open(cls, path: str | Path) -> SearchEvidence:
        """Read what a results folder holds. Raises SearchError if it holds no search."""
        from search.results import ResultsFolder

        folder = ResultsFolder.open(Path(path))
        name, records, splits, looks = folder.read()
        board = Leaderboard.of(name, records, splits, looks)
        if not folder.has_begun:
            return cls(name, folder.path, board, splits=splits, no_problems="The search is only starting.")
        from search.space.space import SearchSpace

        identity = folder.identity
        space = SearchSpace.read(identity["recipe"], str(folder.path))
        folder.require_parameters(records, space)
        problems, no_problems = _problems(folder)
        with folder.reading() as store:
            workplaces, at_work = store.workplaces(past=True), bool(store.at_work())
        return cls(
            name,
            folder.path,
            board,
            tuple(records),
            splits,
            _tasks(folder),
            identity,
            folder.config_file.read_text(encoding="utf-8", errors="replace") if folder.config_file.exists() else "",
            folder.completions.read,
            folder.completions.has,
            problems,
            no_problems,
            space,
            _layers(folder, board),
            workplaces,
            at_work,
        )

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials, by number, including those that are not over."""
        return [record for record in self.records if record.kind == "trial"]

    @property
    def winner(self) -> TrialRecord | None:
        """The trial that the verdict is about, or else the best one; None if none has a score."""
        return next((record for record in self.trials if record.number == _winner(self.board)), None)

    def no_completions(self, record: TrialRecord, split: SplitName) -> str:
        """Return why what a model wrote on a split is not kept, and what keeps it, in words; empty if it is kept."""
        if self.has_completions(record, split):
            return ""
        first = record if record.same_as is None else next(it for it in self.trials if it.number == record.same_as)
        if split == "search" and first.proposed_by.startswith(TAKEN_OVER):
            return "an earlier search generated it, and only the results folder of that search keeps it"
        return (
            f"its file in {self.folder / COMPLETIONS} was deleted, or not copied; restore it, and keep that folder "
            "with the results"
        )


def _winner(board: Leaderboard) -> int | None:
    return board.best if board.verdict.trial is None else board.verdict.trial


def _tasks(folder: ResultsFolder) -> dict[SplitName, Sequence[str]]:
    tasks: dict[SplitName, Sequence[str]] = {**folder.splits}
    if plan := folder.confirmation:
        tasks["confirm"] = plan.task_ids
    return tasks


def _problems(folder: ResultsFolder) -> tuple[Mapping[str, Problem], str]:
    """Return the problems of a search by task id, or none and why they are not available."""
    from evaluation import EvaluationError, load_problems
    from search.confirmation_plan import recorded_evaluation, recorded_problems
    from search.space.sections import Sections

    try:
        evaluation = recorded_evaluation(folder.identity, Sections.load(folder.config_file), folder.path)
        found = recorded_problems(folder, evaluation)
        extra = [
            each
            for source in (folder.confirmation.sources if folder.confirmation else ())
            for each in load_problems(source)
        ]
    except (SearchError, EvaluationError, OSError) as error:
        return {}, f"The problems cannot be shown: {error}"
    return {problem.task_id: problem for problem in [*extra, *found]}, ""


def _layers(folder: ResultsFolder, board: Leaderboard) -> Layers:
    """Return the curves of the winner and of the best trials, as many as a page has room for."""
    from merging import MergingError
    from search.layer_values import knot_values, layer_values
    from search.space.sections import Sections

    records = [record for record in board.trials if record.search.score is not None and record.recipe]
    records.sort(key=lambda record: record.number != _winner(board))
    curves: dict[int, Sequence[Curve]] = {}
    no_layers, room = "", _MOST_VALUES
    try:
        load = Sections.load(folder.config_file).merging.load_options
        found: Iterable[Sequence[Curve]] = layer_values(
            [record.recipe for record in records[:_MOST_CURVES]], folder.identity, folder.path, load
        )
        for record, lines in zip(records, found, strict=False):
            curves[record.number] = lines
            room -= sum(len(line.values) for line in lines)
            if room < 0:
                break
    except (SearchError, MergingError) as error:
        no_layers = f"The knots of the gradients are shown, not the layers: {error}."
        curves = {record.number: knot_values(record.recipe, folder.path) for record in records[:_MOST_CURVES]}
    return Layers(curves, no_layers)
