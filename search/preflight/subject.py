"""The subject of a preflight: a search with all that it needs, each part opened when a check first asks for it.

Guarantees: opens headers, configs, tokenizers and problems; reads no weights by itself, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from evaluation import ProblemSet
from merging import MergeOptions, Merger, MergingError, ParentSet, Recipe, load_tokenizer
from search.board.names import record_name
from search.board.search_verdict import left_to_report
from search.devices import choose_device, device_map_of
from search.earlier import EarlierSearch, seen_earlier, spent_earlier, unseen
from search.memory_plan import MemoryPlan
from search.planned_memory import Planner
from search.progress import Progress
from search.results import ResultsFolder
from search.run.setup import reference_models, split_problems
from search.space.config import SearchConfig
from search.stopping import SearchSoFar, ended_by
from search.study.looks import Look, Looks


@dataclass(frozen=True, slots=True)
class EndedSearch:
    """A search that has ended before it runs.

    Attributes:
        reason: the rule that ended it, in words.
        more_trials: the number of trials to ask for, so that more are left; 0 if the config asks for more.
        by_rules: whether another rule than the number of trials ends it, so that more trials alone change nothing.
    """

    reason: str
    more_trials: int
    by_rules: bool


@dataclass
class Subject:
    """A search that is about to run. Properties raise the errors of what they open.

    Attributes:
        config: the search's config.
        out: its results folder.
        progress: shows what takes long.
        opened: closes what was opened.
    """

    config: SearchConfig
    out: Path
    progress: Progress
    opened: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    @cached_property
    def begun(self) -> SearchSoFar | None:
        """What its results folder holds; None if that is new. Raises SearchError if it is not the config's."""
        if not ResultsFolder.is_one(self.out):
            return None
        folder = ResultsFolder.open(self.out)
        _, records, splits, looks = folder.read()
        folder.require_parameters(records, self.config.space)
        return SearchSoFar(records, splits, looks, self.config.search.trials)

    @cached_property
    def ended(self) -> EndedSearch | None:
        """How the search in its results folder has ended; None if a run continues or begins it. Raises SearchError."""
        begun, search = self.begun, self.config.search
        stop = search.stop
        if not begun or not (reason := ended_by(begun, stop)):
            return None
        if left_to_report(begun.records, begun.splits, begun.looks, search.finalists):
            return None
        over = len(begun.over)
        more = 2 * over if over >= begun.trials else 0
        return EndedSearch(reason, more, bool(ended_by(replace(begun, trials=over + 1), stop)))

    @cached_property
    def problems(self) -> ProblemSet:
        """All problems. Raises SearchError."""
        return self.config.evaluation.load_problems(self.config.source)

    @cached_property
    def splits(self) -> tuple[ProblemSet, ProblemSet]:
        """The problems of the search split, and those of the report split. Raises SearchError."""
        visible, report = split_problems(self.config, self.problems)
        return visible, unseen(report, seen_earlier(self.earlier))

    @cached_property
    def earlier(self) -> Sequence[EarlierSearch]:
        """The earlier searches that this one starts from. Raises SearchError."""
        source, given = self.config.source, self.config.earlier
        return [EarlierSearch.open(each.results, f"{source}: {key}", each.best) for key, each in given.items()]

    @cached_property
    def looks(self) -> Looks:
        """The looks at the report split, including those of earlier searches. Raises SearchError."""
        spent = spent_earlier(self.earlier, self.splits[1])
        return Looks(self.config.search.trials, (Look(None, spent, ()),) if spent else ())

    @cached_property
    def names(self) -> Sequence[str]:
        """The references of all parents."""
        return list(dict.fromkeys(name for recipe in self.config.space.extreme_recipes for name in recipe.parents()))

    @cached_property
    def parents(self) -> ParentSet:
        """The parents, checked against each other. Raises MergingError."""
        options = MergeOptions(memory_budget=0, load=self.config.merging.load_options)
        return self.opened.enter_context(ParentSet.open(self.config.space.extreme_recipes, options))

    @cached_property
    def merger(self) -> Merger:
        """The merger of the parents. Raises MergingError."""
        return Merger(self.parents)

    @cached_property
    def _fitting(self) -> tuple[Sequence[Recipe], str]:
        return self.config.space.fitting_extremes(self.merger.steps)

    @property
    def candidates(self) -> Sequence[Recipe]:
        """Recipes of the space that can be merged, in which every choice occurs. Raises MergingError."""
        return self._fitting[0]

    @property
    def space_warning(self) -> str:
        """How much of the space cannot be merged; empty if all that was tried can be. Raises MergingError."""
        return self._fitting[1]

    @cached_property
    def models(self) -> Mapping[str, Recipe]:
        """A merge, and the reference models that can be merged, by their names in notes."""
        found = {"the merges": self.candidates[0]}
        for record in reference_models(self.config):
            recipe = Recipe.from_dict(record.recipe, self.config.source)
            try:
                self.merger.steps(recipe)
            except MergingError:  # parents that are stacked need not have an average
                continue
            found[record_name(record)] = recipe
        return found

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of all prompts, if the config names one. Raises MergingError."""
        name = self.config.evaluation.prompt.tokenizer
        return load_tokenizer(name, self.config.merging.load_options) if name else None

    @cached_property
    def device(self) -> torch.device | None:
        """The models' device; None if they are spread. Raises SearchError."""
        section = self.config.merging
        if section.device_map is not None:
            return None
        where = f"{self.config.source}: merging.device"
        return torch.device(choose_device(section.device, where, self.config.evaluation.backend))

    @cached_property
    def planner(self) -> Planner:
        """The planner of this machine's memory. Raises SearchError or MergingError."""
        splits = list(self.splits)
        if self.device is not None:
            return Planner.of_search(self.config, self.merger, self.candidates, splits, self.tokenizer, [self.device])
        section = self.config.merging
        options = MergeOptions(device_map=section.device_map, memory_budget=0, load=section.load_options)
        with device_map_of(self.config.source):
            spread = self.opened.enter_context(ParentSet.open(self.config.space.extreme_recipes, options))
        for device in spread.placement.devices:
            choose_device(str(device), f"{self.config.source}: merging.device_map")
        return Planner.of_search(self.config, Merger(spread), self.candidates, splits, self.tokenizer)

    @cached_property
    def memory(self) -> MemoryPlan:
        """The memory plan. Raises SearchError or MergingError."""
        return self.planner.plan()

    @cached_property
    def tiers(self) -> Mapping[str, Mapping[str, int]]:
        """The bytes of each parent in each memory, by that plan. Raises SearchError or MergingError."""
        return self.planner.tiers(self.memory)
