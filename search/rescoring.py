"""Scoring a merge of a search again under the search's settings: with other prompts, or on further problems.

Guarantees: nothing is written to the search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evaluation import PROMPT_FORMATS, ConsentError, Evaluator, OutcomeCounter, ProblemSet
from evaluation.generation.room import Room
from evaluation.scoring import Rate
from merging import FileDigests, MergeOptions, Merger, ParentSet, Recipe, load_tokenizer, renamed
from search.board.names import LABEL_WIDTH, parent_names
from search.confirmation_plan import recorded_evaluation, recorded_problems
from search.contents import find
from search.devices import choose_device, device_map_of
from search.errors import SearchError
from search.planned_memory import Generation, plans_of_evaluation
from search.results import ResultsFolder
from search.space.config import require_backend
from search.space.sections import EvaluationSection, Sections
from search.study.record import TrialRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Candidate:
    """A merge that was scored, to be scored in other ways.

    Attributes:
        folder: the results folder of its search.
        record: the merge's record.
        places: where its parents are now, by their names in the record.
        digests: digests of their files.
        progress: called with (phase, done, total).
    """

    folder: ResultsFolder
    record: TrialRecord
    places: Mapping[str, str]
    digests: FileDigests
    progress: Callable[[str, int, int], None]

    @classmethod
    def found(cls, folder: ResultsFolder, record: TrialRecord, progress: Callable[[str, int, int], None]) -> Candidate:
        """Return the merge of a record, with its parents wherever they are now. Raises SearchError if one is gone."""
        digests, settings = FileDigests(), Sections.load(folder.config_file).merging
        places = find(folder.identity, record.recipe, folder.path, digests, settings, progress)
        return cls(folder, record, places, digests, progress)

    @property
    def recipe(self) -> Recipe:
        """The recipe, with each model named by its present place."""
        return Recipe.from_dict(renamed(self.record.recipe, self.places), str(self.folder.path))

    @property
    def owners(self) -> dict[str, str]:
        """Where the parents are now, by their displayed names."""
        recipe = Recipe.from_dict(self.record.recipe, str(self.folder.path))
        names = parent_names([Recipe.single(name).to_dict() for name in recipe.parents()], LABEL_WIDTH)
        return {names[name]: renamed(name, self.places) for name in recipe.parents()}

    @property
    def sections(self) -> Sections:
        """The config of its search."""
        return Sections.load(self.folder.config_file)

    @property
    def evaluation(self) -> EvaluationSection:
        """How its search scored."""
        return recorded_evaluation(self.folder.identity, self.sections, self.folder.path)

    @property
    def problems(self) -> ProblemSet:
        """The problems of all splits of its search. Raises SearchError if they have changed since it began."""
        return recorded_problems(self.folder, self.evaluation)


@contextlib.contextmanager
def scored_again(
    merge: Candidate, allow_code_execution: bool
) -> Iterator[tuple[Evaluator, PreTrainedModel, PreTrainedTokenizerBase]]:
    """Yield an evaluator that scores as the search did, the live merge, and the recipe's own tokenizer.

    Args:
        merge: what is scored.
        allow_code_execution: consent, if the config does not give it.

    Raises:
        ConsentError: nobody has consented to execute code.
        SearchError, MergingError, EvaluationError: the merge cannot be scored here.
    """
    config, settings, recipe, source = merge.sections, merge.evaluation, merge.recipe, str(merge.folder.config_file)
    if not (allow_code_execution or config.evaluation.allow_code_execution):
        raise ConsentError
    require_backend(settings, source)
    problems = merge.problems
    where = MergeOptions(
        choose_device(config.merging.device, f"{source}: merging.device", settings.backend),
        config.merging.device_map,
        memory_budget=0,
        statistics=merge.folder.statistics,
        load=config.merging.load_options,
    )
    with device_map_of(source), ParentSet.open(recipe, where, digests=merge.digests) as parents:
        merger = Merger(parents, config.merging.random_seed)
        is_wide = merge.folder.compute_dtype == "float32"
        own = merger.tokenizer(recipe)
        with Evaluator(
            problems,
            allow_code_execution=True,
            prompt_format=settings.prompt.format,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            timeout_seconds=settings.timeout,
            workers=settings.workers,
            backend=settings.backend,
            sampling=settings.sampling(merge.folder.identity["search"]["seed"]),
            room=_room(recipe, where, settings, problems, is_wide),
        ) as evaluator:
            merger.calibrate(recipe, lambda what, *read: merge.progress(what, *read))
            merger.compute_dtype = torch.float32 if is_wide else None
            model = merger.apply(recipe, lambda *done: merge.progress("merging", *done))
            yield evaluator, model, own


def _room(
    recipe: Recipe, where: MergeOptions, settings: EvaluationSection, problems: ProblemSet, is_wide: bool
) -> Room:
    own, wide = plans_of_evaluation(
        recipe,
        where,
        lambda tokenizer: Generation.of(
            settings.backend,
            [problems],
            tokenizer,
            PROMPT_FORMATS,
            settings.max_new_tokens,
            settings.samples,
            settings.batch_size,
        ),
    )
    plan = wide if is_wide else own
    if plan.refusal:
        raise SearchError(f"the merge has no room here to be scored: {plan.refusal}")
    return plan.room


def rates_on_the_rest(merge: Candidate, known: Container[str], allow_code_execution: bool) -> Mapping[str, Rate]:
    """Return the rates of a merge on the other problems of its search, in the search's prompt format.

    Args:
        merge: what is scored.
        known: the ids of the problems that need not be scored.
        allow_code_execution: consent, if the config does not give it.

    Raises:
        ConsentError: nobody has consented to execute code.
        SearchError, MergingError, EvaluationError: the merge cannot be scored here.
    """
    rest = [task for task in merge.problems.task_ids if task not in known]
    if not rest:
        return {}
    with scored_again(merge, allow_code_execution) as (evaluator, model, own):
        asked = merge.evaluation.prompt.tokenizer
        place = merge.places.get(asked, asked) if asked else None
        tokenizer = load_tokenizer(place, merge.sections.merging.load_options) if place else own
        counter = OutcomeCounter(lambda *done: merge.progress("scoring the rest of the problems", *done))
        chosen = evaluator.problems.subset(rest)
        return evaluator.evaluate(model, tokenizer, problems=chosen, observers=[counter], plain=True).rates
