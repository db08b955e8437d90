"""Setup: everything that a worker needs, from a config to a store that it is signed in to.

Guarantees: nothing is written until all mistakes in the input have been reported.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from evaluation import Evaluator, ProblemSet
from evaluation.generation.room import Room
from evaluation.sandbox.pool import usable_cores
from merging import FileDigests, MergeOptions, Merger, MergingError, ParentSet, Recipe, choose_kernels, load_tokenizer
from search.compute import Compute
from search.contents import ParentContents
from search.counts import counted
from search.devices import cards_here, choose_device, device_map_of, workplace
from search.earlier import SEEN, EarlierSearch, Start, seen_earlier, spent_earlier, unseen
from search.errors import SearchError
from search.identity import COMPUTE_DTYPE, PLAIN_ROWS, Identity, moved, plain_rows
from search.memory_demand import GradientRoom
from search.memory_plan import MemoryPlan
from search.planned_memory import Planner, budgets_of
from search.preflight.finding import untoward
from search.preflight.machine_findings import disk_findings, export_bytes, results_bytes
from search.preflight.parent_findings import config_leftovers, notes_on_parents
from search.preflight.search_findings import prompt_findings, unread_findings
from search.progress import Progress
from search.prompt_checks import require_template
from search.results import STATISTICS, ResultsFolder
from search.run.neighbours import notes_on_cards, on_machine, share_of
from search.run.trial import Bench
from search.space.config import SearchConfig
from search.study.drafts import SharedDrafts
from search.study.outcomes import Split
from search.study.record import WARM_START, SplitName, TrialRecord
from search.study.store import Proposal, Store, Workplace

_LOG = logging.getLogger("search.worker")


@dataclass(frozen=True, slots=True)
class Session:
    """A worker's stay in a search.

    Attributes:
        config: the search's config, with the models' names from its records.
        bench: the worker's tools for scoring.
        store: the store that it shares with others; the search has begun there.
        worker: the worker's name in the store.
        gradient: how much of the gradient of an ascent memory has room for.
    """

    config: SearchConfig
    bench: Bench
    store: Store
    worker: str
    gradient: GradientRoom = "model"


def reference_models(config: SearchConfig) -> list[TrialRecord]:
    """Return the models that candidates are compared with: each parent, and the average of those that are merged."""
    extremes = config.space.extreme_recipes
    dtype = extremes[0].out_dtype or extremes[0].dtype
    parents = list(dict.fromkeys(name for recipe in extremes for name in recipe.parents()))
    found = [
        TrialRecord("parent", number, name, recipe=Recipe.single(name, dtype).to_dict())
        for number, name in enumerate(parents)
    ]
    merged = [name for name in parents if name not in {recipe.base_model for recipe in extremes}]
    if len(merged) > 1:
        average = Recipe.average(merged, dtype, extremes[0].vocabulary_source)
        average = average.model_copy(update={"chat_template": extremes[0].chat_template})
        found.append(TrialRecord("average", name="average", recipe=average.to_dict()))
    return found


def split_problems(config: SearchConfig, problems: ProblemSet) -> tuple[ProblemSet, ProblemSet]:
    """Return the problems of the search split, and those of the report split.

    Raises SearchError if the search would see nothing of an objective.
    """
    visible, report = problems.split(config.evaluation.report_fraction, config.search.seed)
    empty = [part.name for part in visible.parts if not part.task_ids] if config.objectives > 1 else []
    if empty or not len(visible):
        of_set = f" of {empty[0]}" if empty else ""
        reason = f"evaluation.report_fraction: leaves no problem{of_set} to search on"
        raise SearchError(f"{config.source}: {reason}")
    return visible, report


def room_in(begun: Identity | None, plan: MemoryPlan) -> Room:
    """Return the room of an evaluator, which keeps the batch size that the search began with for the report split."""
    rows = plan.room.plain_rows
    return replace(plan.room, plain_rows=rows if begun is None else plain_rows(begun, rows))


@contextlib.contextmanager
def set_up(
    config: SearchConfig, path: Path, total: int, progress: Progress, fresh: bool = False, retry_failed: bool = False
) -> Iterator[Session]:
    """Yield a worker's session.

    Args:
        config: the config of the search.
        path: the results folder.
        total: the number of trials that the search has in all.
        progress: shows what happens.
        fresh: start over; an existing folder is moved aside.
        retry_failed: run again all that has failed so far.

    Raises:
        SearchError, MergingError, EvaluationError: the config, the folder, the models or the problems cannot be used.
    """
    with ExitStack() as open_until_the_end:
        yield Setup(config, path, total, progress, fresh, open_until_the_end).session(retry_failed)


@dataclass
class Setup:
    """Opens, one after another, all that a worker needs. Its attributes are the arguments of `set_up`."""

    config: SearchConfig
    path: Path
    total: int
    progress: Progress
    fresh: bool
    opened: ExitStack

    def session(self, retry_failed: bool) -> Session:
        """Return the session of a worker in a search."""
        config = self.config
        problems = config.evaluation.load_problems(config.source)
        earlier = self._earlier()
        seen = self._begun["problems"].get(SEEN, []) if self._begun else seen_earlier(earlier)
        splits = self._split(problems, seen)
        asked = {"sha256": problems.digest, "search": splits["search"].task_ids, "report": splits["report"].task_ids}
        asked |= {SEEN: seen} if seen else {}
        digests = FileDigests()  # made before anything is opened: files that change from now on get no digest
        contents = ParentContents(config, digests, self.path)
        if contents.known and not self.fresh:
            ResultsFolder.check(self.path, config, contents.identity(asked))
        else:
            contents.begin()
        references = reference_models(config)
        parents = self.parents(references, digests)
        merger = self.merger(parents, len(references))
        candidates = self._fitting(merger)
        references = [record for record in references if self._can_be_merged(record, merger)]
        compute, plan = self.plan(merger, candidates, list(splits.values()))
        room = room_in(self._begun, plan)
        evaluator = self.opened.enter_context(self.evaluator(problems, room))
        self.load(parents, plan)
        self._tell_notes(parents, merger, candidates, references, problems, plan)
        contents.wait(self.progress)
        identity = contents.identity(asked)
        if not self.fresh:
            ResultsFolder.check(self.path, config, identity)
        for recipe in candidates:
            merger.calibrate(recipe, lambda what, *read: self.progress.count(what, "texts", *read))
        # Only now is anything written.
        identity["evaluation"] |= {COMPUTE_DTYPE: compute.dtype, PLAIN_ROWS: room.plain_rows}
        start = Start.of(earlier, config.space, identity)
        for note in start.notes:
            self.progress.say(note)
        folder = ResultsFolder.create(self.path, config, identity, self.fresh, self.progress.say)
        if (agreed := room_in(folder.identity, plan)) != room:  # another worker has begun the search meanwhile
            evaluator = self.opened.enter_context(self.evaluator(problems, agreed))
        if agreed.plain_rows > plan.room.plain_rows:
            self.progress.say(
                f"the report split is decoded {agreed.plain_rows} problems at a time, as where this search began; here "
                f"memory has room for {plan.room.plain_rows}: if it runs out, the batch is smaller, and 16-bit scores "
                "may differ"
            )
        # If the parents have moved since, the records keep their old names.
        if places := moved(folder.identity, identity):
            config = config.with_names({here: there for there, here in places.items()})
        store, worker = self.sign_in(folder, merger, evaluator, compute)
        drafts = SharedDrafts(store)
        bench = Bench(
            merger, evaluator, splits, config.objectives, self.prompt_tokenizer, folder, drafts, self.progress,
            contents, places, plan.takes_turns,
        )  # fmt: skip
        starts = [*(Proposal(parameters, WARM_START) for parameters in config.warm_starts), *start.proposals]
        read = {name: Split.of(split, evaluator.sampling.samples) for name, split in splits.items()}
        spent = spent_earlier(earlier, splits["report"])
        store.begin(references, starts, read, self.total, retry_failed, start.taken_over, spent)
        folder.require_parameters(store.changed()[0], config.space)
        folder.completions.remove_lost(store)
        return Session(config, bench, store, worker, plan.gradient)

    @cached_property
    def _begun(self) -> Identity | None:
        """The identity of the search that this worker continues, if one has begun in the folder."""
        if not self.fresh:
            with contextlib.suppress(SearchError), ResultsFolder.open(self.path).reading() as store:
                # A worker killed before it stored the splits has stored nothing else either.
                return store.identity if store.splits else None
        return None  # a broken folder raises where it is checked

    def _earlier(self) -> Sequence[EarlierSearch]:
        """Return the searches that this one starts from; none once it has begun."""
        config = self.config
        if self._begun and config.earlier:
            folders = ", ".join(each.results for each in config.earlier.values())
            self.progress.say(f"{folders}: read only when a search begins; this one goes on")
        given = {} if self._begun else config.earlier
        return [EarlierSearch.open(each.results, f"{config.source}: {key}", each.best) for key, each in given.items()]

    def _split(self, problems: ProblemSet, seen: Sequence[str]) -> dict[SplitName, ProblemSet]:
        """Return the problems of each split. Raises SearchError, like `split_problems`."""
        visible, report = split_problems(self.config, problems)
        reported = unseen(report, seen)
        if (kept_out := len(report) - len(reported)) and not self._begun:
            left = counted(len(reported), "is left", "are left") + "; so nothing can be proven" * (not len(reported))
            self.progress.say(
                f"{counted(kept_out, 'problem is', 'problems are')} kept out of the report split, because the searches "
                f"that this one starts from have searched on them; {left}"
            )
        return {"search": visible, "report": reported}

    def parents(self, references: Sequence[TrialRecord], digests: FileDigests) -> ParentSet:
        """Open all models that the recipes of the space, or of some references, merge."""
        settings, source = self.config.merging, self.config.source
        recipes = [Recipe.from_dict(record.recipe, source) for record in references]
        options = MergeOptions(
            choose_device(settings.device, f"{source}: merging.device", self.config.evaluation.backend),
            settings.device_map,
            memory_budget=0,  # until there is a plan
            statistics=self.path / STATISTICS,
            load=settings.load_options,
        )
        with device_map_of(source):
            parents = ParentSet.open([*self.config.space.extreme_recipes, *recipes], options, digests=digests)
        self.opened.enter_context(parents)
        for device in parents.placement.devices:
            choose_device(str(device), f"{source}: merging.device_map")
        self._tell_neighbours(parents, self._others)
        return parents

    @cached_property
    def _others(self) -> Mapping[str, Workplace]:
        """The places of the workers that were on the search before this one, by name."""
        if not self.fresh:
            with contextlib.suppress(SearchError), ResultsFolder.open(self.path).reading() as store:
                return store.workplaces()
        return {}

    def _tell_neighbours(self, parents: ParentSet, others: Mapping[str, Workplace]) -> None:
        for note in notes_on_cards(workplace(parents.placement.devices), others, cards_here()):
            self.progress.say(note)

    def evaluator(self, problems: ProblemSet, room: Room) -> Evaluator:
        """Return the evaluator with the config's settings, within this room."""
        settings, workers = self.config.evaluation, self.config.evaluation.workers
        if workers is None:
            workers = share_of(usable_cores(), on_machine(platform.node(), self._others))
        return Evaluator(
            problems,
            allow_code_execution=settings.allow_code_execution,
            prompt_format=settings.prompt.format,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            timeout_seconds=settings.timeout,
            workers=workers,
            backend=settings.backend,
            sampling=settings.sampling(self.config.search.seed),
            room=room,
            tell=self.progress.say,
        )

    def merger(self, parents: ParentSet, references: int) -> Merger:
        """Return the merger for the trials and this many reference models."""
        settings = self.config.merging
        choice = choose_kernels(parents.elements * (self.total + references), parents.device, settings.compile)
        if choice.note:
            self.progress.say(choice.note)
        return Merger(parents, settings.random_seed, choice.kernels)

    def _fitting(self, merger: Merger) -> Sequence[Recipe]:
        """Return recipes of the space that can be merged, and that together hold every choice."""
        recipes, warning = self.config.space.fitting_extremes(merger.steps)
        for recipe in recipes:
            require_template(self.config, self.prompt_tokenizer or merger.tokenizer(recipe))
        if warning:
            self.progress.say(warning)
        return recipes

    def _can_be_merged(self, record: TrialRecord, merger: Merger) -> bool:
        """Whether a reference model can be merged: the parents of a stack need not have an average."""
        try:
            merger.steps(Recipe.from_dict(record.recipe, self.config.source))
        except MergingError as error:
            if record.kind == "parent":
                raise
            self.progress.say(f"{record.name}: left out: {error}")
            return False
        return True

    def plan(
        self, merger: Merger, candidates: Sequence[Recipe], splits: Sequence[ProblemSet]
    ) -> tuple[Compute, MemoryPlan]:
        """Return the compute dtype, for a search that has recorded none, and the memory plan.

        Raises SearchError if the plan says that the search cannot work here.
        """
        workers = 1 + on_machine(platform.node(), self._others)
        planner = Planner.of_search(self.config, merger, candidates, splits, self.prompt_tokenizer, workers=workers)
        compute = Compute.of_merges(merger, candidates, self.config.evaluation, planner.fits_in_float32)
        plan = planner.plan(self._as_begun(compute).itemsize)
        if plan.refusal:
            raise SearchError(f"{self.config.source}: the search has no room here: {plan.refusal}")
        for note in plan.notes:
            self.progress.say(note)
        return compute, plan

    def load(self, parents: ParentSet, plan: MemoryPlan) -> None:
        """Load the parents as far as the plan has room for them."""
        parents.keep_within(budgets_of(plan, parents.placement.devices))
        parents.load(lambda _parent, *read: self.progress.count("reading the parents", "tensors", *read))

    def _as_begun(self, compute: Compute) -> Compute:
        """Return the compute dtype of the search in the folder, or of a new search if there is none."""
        if not self.fresh:
            with contextlib.suppress(SearchError):
                return compute.instead(ResultsFolder.open(self.path).compute_dtype)[0]
        return compute

    def _tell_notes(
        self,
        parents: ParentSet,
        merger: Merger,
        candidates: Sequence[Recipe],
        references: Sequence[TrialRecord],
        problems: ProblemSet,
        plan: MemoryPlan,
    ) -> None:
        config = self.config
        models: Mapping[str, Recipe] = {"the merges": candidates[0]} | {
            record.name: Recipe.from_dict(record.recipe, config.source) for record in references
        }
        sources = {recipe.config_source for recipe in candidates}
        found = [
            *notes_on_parents(parents),
            *unread_findings(config.space, merger, candidates, self.progress),
            *prompt_findings(config, problems, merger, models, self.prompt_tokenizer),
        ]
        less = [
            *config_leftovers(parents.checkpoints, sources),
            *disk_findings(self.path, results_bytes(config, len(problems), plan), export_bytes(merger, candidates)),
        ]
        for note in [*untoward(found), *untoward(less, "warning", "problem")]:
            self.progress.say(note)

    def sign_in(
        self, folder: ResultsFolder, merger: Merger, evaluator: Evaluator, compute: Compute
    ) -> tuple[Store, str]:
        """Sign in to the search in a folder, which gives the compute dtype and keeps the verdicts.

        Return its store and the worker's name there.
        """
        store = self.opened.enter_context(folder.working())
        worker = self.opened.enter_context(store.sign_in())
        self.opened.callback(torch.set_num_threads, torch.get_num_threads())  # which `Cores` changes
        merger.compute_dtype = self._as_recorded(compute, folder)
        merger.parents.statistics.write()
        self._describe(merger.parents, evaluator, store, worker)
        evaluator.remember_in(store)
        return store, worker

    def _as_recorded(self, here: Compute, folder: ResultsFolder) -> torch.dtype | None:
        """Return the search's compute dtype, as its first worker chose it, and say so if it is slow here."""
        compute, cost = here.instead(folder.compute_dtype)
        speeds = here.speeds and f"float32 is {here.speeds.speedup:.1f}x as fast as {replace(here, dtype='recipe')}"
        _LOG.info("scoring computes in %s; measured here: %s", compute, speeds or "nothing")
        if cost:
            self.progress.say(cost)
        return compute.torch_dtype

    def _describe(self, parents: ParentSet, evaluator: Evaluator, store: Store, worker: str) -> None:
        """Store the worker's place and its sandbox's layers; report the missing layers and the workers on its cards."""
        came_since = {name: place for name, place in store.workplaces().items() if name not in self._others}
        self._tell_neighbours(parents, came_since)
        place, isolation = workplace(parents.placement.devices), evaluator.sandbox.isolation
        _LOG.info("sandbox: %s", isolation)
        if store.describe_worker(worker, place, isolation.active, isolation.missing):
            self.progress.say(isolation.note)

    @cached_property
    def prompt_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer for the prompts of all models, if the config names one; loaded once."""
        name = self.config.evaluation.prompt.tokenizer
        try:
            return load_tokenizer(name, self.config.merging.load_options) if name else None
        except MergingError as error:
            raise SearchError(f"{self.config.source}: evaluation.prompt.tokenizer: {error}") from None
