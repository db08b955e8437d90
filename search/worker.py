"""The worker: takes trials of a study until there are enough, then scores the finalists on the report split.

Guarantees: many workers may share one results folder; the first Ctrl-C (or SIGTERM) lets the running trial finish, the
second stops at once, and what was stopped is run again on the next start; the search never sees the report split. A
machine that fails ends the worker, and not one trial after the other: three in a row are enough, or a GPU that is lost.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import FrameType

import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from transformers import PreTrainedTokenizerBase

from evaluation import ConsentError, Evaluator, ProblemSet
from merging import FileDigests, MergeOptions, Merger, MergingError, ParentSet, Recipe, choose_kernels, load_tokenizer
from merging.notes import parent_notes
from search.compute import Compute
from search.contents import ParentContents
from search.database import storage_errors
from search.devices import choose_device
from search.drafts import SharedDrafts
from search.errors import STOPS, SearchError
from search.finals import Finals, unreported
from search.identity import Identity, moved, says_contents
from search.leaderboard import Leaderboard
from search.machine import Machine
from search.numbers import parent_names
from search.outcomes import Split
from search.progress import NAME_WIDTH, Progress, Silent, count
from search.prompt_checks import asking_notes, require_template
from search.reruns import ERROR
from search.results import STATISTICS, ResultsFolder
from search.space.config import SearchConfig
from search.standing import least_likelihood, standing
from search.study import KIND, NAME, RECIPE, Baseline, Studies, quiet
from search.trial import AGAIN, Bench, Result, repeat_trial, run_trial
from search.unread import unread_lines

_LOG = logging.getLogger("search.worker")


def run_search(
    config: SearchConfig,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> Leaderboard:
    """Run a search, or go on with one, and return its leaderboard.

    Args:
        config: what to search.
        out: the results folder; by default ``results/`` and the config's name.
        trials: how many trials the search has in all, instead of the config's number; parents are not counted.
        timeout: stop taking trials after this many seconds, instead of the config's.
        seed: the sampler's seed and that of the split, instead of the config's.
        fresh: begin anew; an existing folder is moved aside.
        retry_failed: run again all that has failed so far.
        progress: told what happens; by default nobody is.

    Raises:
        SearchError, MergingError, EvaluationError: the config, the folder, the models or the problems cannot be used,
            and no existing folder was changed; or the folder can no longer be written, or no parent can be scored, or
            the machine fails at one trial after the other; what was scored is kept.
    """
    if seed is not None:
        config = config.with_seed(seed)
    if not config.evaluation.allow_code_execution:
        raise ConsentError
    config.require_files()
    total = config.search.trials if trials is None else trials
    worker = _Worker(config, total, progress or Silent())
    path = Path(out) if out is not None else default_folder(config)
    with quiet(), _interruptible(worker):
        return worker.run(path, config.search.timeout if timeout is None else timeout, fresh, retry_failed)


def default_folder(config: SearchConfig) -> Path:
    """Return where the results of a config go if nothing else is said."""
    return Path("results") / Path(config.source).stem


def baselines(config: SearchConfig) -> list[Baseline]:
    """Return what candidates are compared with: each parent alone, and the average of those that are merged."""
    extremes = config.space.extreme_recipes
    dtype = extremes[0].out_dtype or extremes[0].dtype
    parents = list(dict.fromkeys(name for recipe in extremes for name in recipe.parents()))
    found = [Baseline("parent", name, Recipe.single(name, dtype)) for name in parents]
    merged = [name for name in parents if name not in {recipe.base_model for recipe in extremes}]
    if len(merged) > 1:
        average = Recipe.average(merged, dtype, extremes[0].vocabulary_source)
        average = average.model_copy(update={"chat_template": extremes[0].chat_template})
        found.append(Baseline("baseline", "equal average", average))
    return found


@dataclass
class _Worker:
    config: SearchConfig
    total: int
    progress: Progress
    started: bool = False
    stopping: bool = False
    machine: Machine = field(init=False)

    def run(self, path: Path, limit: float | None, fresh: bool, retry_failed: bool) -> Leaderboard:
        config = self.config
        deadline = time.monotonic() + limit if limit is not None else None
        problems = config.evaluation.load_problems(config.source)
        visible, report = self._split(problems)
        known = baselines(config)
        recipes = [*config.space.extreme_recipes, *(baseline.recipe for baseline in known)]
        asked = {"sha256": problems.digest, "search": visible.task_ids, "report": report.task_ids}
        digests = FileDigests()  # before anything is opened: what changes after this has no digest
        contents = ParentContents(config, digests)
        if contents.known and not fresh:
            ResultsFolder.check(path, config, contents.identity(path, asked))
        else:
            contents.begin()
        device = choose_device(config.merging.device, f"{config.source}: merging.device")
        options = MergeOptions(
            device,
            config.merging.device_map,
            config.merging.memory_budget,
            statistics=path / STATISTICS,
            load=config.merging.load_options,
        )
        with (
            ParentSet.open(recipes, options, digests=digests) as parents,
            self._evaluator(problems) as scorer,
        ):
            merger = self._merger(parents, len(known))
            fitting = config.space.fitting_extremes(merger.steps)
            for recipe in fitting.recipes:
                require_template(config, self._prompt_tokenizer or merger.tokenizer(recipe))
            if fitting.warning:
                self.progress.say(fitting.warning)
            known = [baseline for baseline in known if self._can_be_had(baseline, merger)]
            compute = Compute.of_merges(merger, fitting.recipes, config.evaluation)
            if options.memory_budget is None:
                parents.leave_room(_as_begun(compute, path, fresh).more_bytes)
            parents.load(lambda _parent, *read: count(self.progress, "reading the parents", "tensors", *read))
            unread = unread_lines(config.space, merger, fitting.recipes, self.progress)
            models = {"the merges": fitting.recipes[0]} | {each.name: each.recipe for each in known}
            asking = asking_notes(config, problems, merger, models, self._prompt_tokenizer)
            for note in (*parent_notes(parents), *unread, *asking):
                self.progress.say(note)
            contents.wait(self.progress)
            identity = contents.identity(path, asked)
            self._check_folder(path, identity, fresh)
            for recipe in fitting.recipes:
                merger.calibrate(recipe, lambda what, *read: count(self.progress, what, "texts", *read))
            # Only now is anything written: whatever is wrong with the input has been found.
            identity["evaluation"]["compute_dtype"] = compute.dtype
            folder = ResultsFolder.create(path, config, identity, fresh, self.progress.say)
            # Where the parents were moved since, the study calls them as it always did.
            places = moved(folder.identity, identity)
            if places:
                self.config = config = config.with_names({here: there for there, here in places.items()})
            with storage_errors(folder), folder.logging(), folder.sign_in() as name:
                merger.compute_dtype = self._as_recorded(compute, folder)
                parents.statistics.write()
                self._tell_isolation(scorer, folder, name)
                scorer.remember_in(folder.verdicts)
                drafts = SharedDrafts(folder.drafts)
                samples = scorer.sampling.samples
                kept = {"search": Split.of(visible, samples), "report": Split.of(report, samples)}
                self.machine = Machine(folder.log)
                bench = Bench(
                    merger, scorer, visible, self._prompt_tokenizer, folder, drafts, self.progress, contents, places
                )
                with contextlib.closing(Studies.create(folder, config, known, kept, retry_failed)) as studies:
                    self.started = True
                    self._warm_up(bench)
                    finish = self._finish(studies, len(report) / len(visible))
                    self._run_baselines(studies, bench, name, deadline, finish)
                    self._run_trials(studies, bench, name, deadline, finish)
                    if len(studies.baseline_trials()) < studies.first_number:  # a worker died at one meanwhile
                        self._run_baselines(studies, bench, name, deadline, finish)
                    finals = Finals(config, studies, bench, report, self.machine)
                    finals.score(partial(self._name, studies), partial(self._tell, studies), lambda: self.stopping)
                    self.machine.rests()
                    return replace(Leaderboard.of(studies), unfinished=self._unfinished(studies, report, name))

    def _split(self, problems: ProblemSet) -> tuple[ProblemSet, ProblemSet]:
        """Return what the search may see, and the rest. Raises SearchError if it would see nothing of an objective."""
        visible, report = problems.split(self.config.evaluation.report_fraction, self.config.search.seed)
        unseen = [part.name for part in visible.parts if not part.task_ids] if self.config.objectives > 1 else []
        if unseen or not len(visible):
            of_set = f" of {unseen[0]}" if unseen else ""
            reason = f"evaluation.report_fraction: leaves no problem{of_set} to search on"
            raise SearchError(f"{self.config.source}: {reason}")
        return visible, report

    def _merger(self, parents: ParentSet, baselines: int) -> Merger:
        settings = self.config.merging
        choice = choose_kernels(parents.elements * (self.total + baselines), parents.device, settings.compile)
        if choice.note:
            self.progress.say(choice.note)
        return Merger(parents, settings.random_seed, choice.kernels)

    def _as_recorded(self, here: Compute, folder: ResultsFolder) -> torch.dtype | None:
        """Return what the search computes in, chosen by whoever began it, and say so if that is slow here."""
        compute, cost = here.instead(folder.compute_dtype)
        speeds = here.speeds and f"float32 is {here.speeds.speedup:.1f}x as fast as {replace(here, dtype='recipe')}"
        _LOG.info("scoring computes in %s; measured here: %s", compute, speeds or "nothing")
        if cost:
            self.progress.say(cost)
        return compute.torch_dtype

    def _check_folder(self, path: Path, identity: Identity, fresh: bool) -> None:
        known = None if fresh else ResultsFolder.check(path, self.config, identity)
        if known is not None and not says_contents(known):
            self.progress.say(f"{path}: does not say what its parents held when it began; what they hold now is noted")

    def _warm_up(self, bench: Bench) -> None:
        """Compile what the candidates need, and compute what depends on the parents alone, before the first trial."""
        if bench.merger.kernels is None or self.stopping:
            return
        self.progress.begin("compiling", 1)
        try:
            bench.merge(self.config.space.example())
        except Exception as error:  # one candidate that cannot be, or the machine: the trials will tell
            _LOG.warning("warming up: %s", error)

    def _evaluator(self, problems: ProblemSet) -> Evaluator:
        settings = self.config.evaluation
        return Evaluator(
            problems,
            allow_code_execution=settings.allow_code_execution,
            prompt_format=settings.prompt.format,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            timeout_seconds=settings.timeout,
            workers=settings.workers,
            backend=settings.backend,
            sampling=settings.sampling(self.config.search.seed),
        )

    def _tell_isolation(self, scorer: Evaluator, folder: ResultsFolder, worker: str) -> None:
        isolation = scorer.sandbox.isolation
        _LOG.info("sandbox: %s", isolation)
        if folder.record_isolation(worker, isolation):
            self.progress.say(isolation.note)

    def _can_be_had(self, baseline: Baseline, merger: Merger) -> bool:
        """Whether a baseline is a model at all: parents that are stacked need not have an average."""
        try:
            merger.steps(baseline.recipe)
        except MergingError as error:
            if baseline.kind == "parent":
                raise
            self.progress.say(f"{baseline.name}: left out: {error}")
            return False
        return True

    @cached_property
    def _prompt_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that all models are asked with, if the config names one; loaded once."""
        name = self.config.evaluation.prompt.tokenizer
        try:
            return load_tokenizer(name, self.config.merging.load_options) if name else None
        except MergingError as error:
            raise SearchError(f"{self.config.source}: evaluation.prompt.tokenizer: {error}") from None

    def _finish(self, studies: Studies, trials_each: float) -> float:
        """Return how many trials' time the report split will take, if one model takes that of `trials_each`."""
        return trials_each * (studies.first_number + min(self.config.search.finalists, self.total))

    def _run_baselines(
        self, studies: Studies, bench: Bench, worker: str, deadline: float | None, finish: float
    ) -> None:
        waiting = max(0, self.total - len(studies.trials()))
        self.progress.begin("parents", studies.first_number, deadline, waiting + finish)
        while not self.stopping and (trial := studies.claim_baseline(worker, self.machine.failed)):
            self.progress.trial(self._name(studies, trial), len(studies.baseline_trials()))
            recipe = partial(Recipe.from_dict, trial.user_attrs[RECIPE], self.config.source)
            run = partial(run_trial, studies.baselines, trial, studies.number(trial), recipe, bench)
            self._end(studies, studies.baselines, trial, run)
        ended = studies.baseline_trials()
        parents = [trial for trial in ended if trial.user_attrs[KIND] == "parent"]
        if len(ended) == studies.first_number and all(trial.state is TrialState.FAIL for trial in parents):
            first = parents[0].user_attrs
            raise SearchError(
                f"{self.config.source}: none of the parents could be scored, so that no merge of them would be; "
                f"{first[NAME]}: {first.get(ERROR, '')}"
            )

    def _run_trials(self, studies: Studies, bench: Bench, worker: str, deadline: float | None, finish: float) -> None:
        self.progress.begin("search", self.total, deadline, finish)
        space = self.config.space
        while not self.stopping and (deadline is None or time.monotonic() < deadline):
            trial = studies.claim(worker, self.total, space, self.machine.failed)
            if trial is None:
                return
            self.progress.trial(self._name(studies, trial), len(studies.trials()))
            self._end(studies, studies.search, trial, partial(self._run_trial, studies, trial, bench))

    def _end(self, studies: Studies, study: Study, trial: Trial, run: Callable[[], Result]) -> None:
        """Run a claimed trial; where it cannot be finished, leave it to be run again."""
        try:
            result = run()
        except STOPS:
            studies.put_back(study, trial)
            raise
        if result.ended == AGAIN:
            studies.put_back(study, trial, result.note, result.device_lost)
        self._tell(studies, result)
        if result.ended == AGAIN:
            give_up = partial(studies.give_up, study, trial)
            self.machine.has_failed(studies.number(trial), self._name(studies, trial), result, give_up)
        elif result.scored_here:
            self.machine.has_scored()

    def _run_trial(self, studies: Studies, trial: Trial, bench: Bench) -> Result:
        number, twin = studies.number(trial), studies.twin(trial)
        if twin:
            return repeat_trial(studies.search, trial, number, twin, studies.number(twin))
        # Numbers may make a recipe that is not valid: that is the trial's failure, and so made inside it.
        recipe = partial(self.config.space.recipe_at, trial.params)
        least = least_likelihood(studies, self.config.search.prune_margin)
        return run_trial(studies.search, trial, number, recipe, bench, least)

    def _name(self, studies: Studies, trial: FrozenTrial | Trial) -> str:
        """Return what a trial is called while it runs."""
        name: str = trial.user_attrs.get(NAME, f"trial {studies.number(trial)}")
        return self._parent_names.get(name, name)

    @cached_property
    def _parent_names(self) -> dict[str, str]:
        parents = [each.recipe.to_dict() for each in baselines(self.config) if each.kind == "parent"]
        return parent_names(parents, NAME_WIDTH)

    def _tell(self, studies: Studies, result: Result) -> None:
        note = result.note.partition("\n")[0]
        self.progress.scored(result.score, result.seconds, standing(studies), note, result.ended)

    def _unfinished(self, studies: Studies, report: ProblemSet, worker: str) -> str:
        others = studies.running_elsewhere()  # first: what is over meanwhile is counted below
        if (ended := len(studies.trials())) + others < self.total:
            if not studies.folder.others_at_work(worker):
                again = studies.waiting_again()
                waiting = f", and {again} could not be finished and will be run again" if again else ""
                return f"{ended} of {self.total} trials are over{waiting}."
            # Between two trials the others run none.
            return f"{ended} of {self.total} trials are over; others work on." if self.stopping else ""
        left = 0 if others or not len(report) else len(unreported(studies, self.config.search.finalists))
        models = "1 model waits" if left == 1 else f"{left} models wait"
        return f"The report split is not finished: {models} to be scored on it." if left else ""


def _as_begun(compute: Compute, path: Path, fresh: bool) -> Compute:
    """Return what the search in a folder computes in, or what it will if none is there."""
    if not fresh:
        with contextlib.suppress(SearchError):
            return compute.instead(ResultsFolder.open(path).compute_dtype)[0]
    return compute


@contextlib.contextmanager
def _interruptible(worker: _Worker) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the worker after its trial, and the second at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if worker.stopping or not worker.started:
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            raise KeyboardInterrupt
        worker.stopping = True
        worker.progress.stopping()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
