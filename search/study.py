"""The studies of a search: made, opened and resumed, with Optuna's RDB storage as the only shared state.

There are two: NAME holds the trials of the search space, NAME/baselines the parents and their average, which are no
points of the space. They are apart because a trial without parameters would empty Optuna's intersection search space
and so blind CMA-ES, GP and multivariate TPE. People see one row of numbers: the baselines come first.

Guarantees: a trial is claimed by one worker. One that its worker could not finish is run again with its numbers (see
`Reruns`), by whoever has nothing else left to take: a trial that kills its workers does so last. The sampler is always
the config's (Optuna's `load_study` alone would quietly fall back to TPE).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search.database import holds_studies, open_storage
from search.errors import SearchError
from search.outcomes import Split
from search.reruns import DIED, TRIES, Reruns, never_finished
from search.results import RESTORE, ResultsFolder
from search.samplers import SeededSampler

if TYPE_CHECKING:  # a leaderboard is read without waiting for torch
    from merging import Recipe
    from search.space.config import SearchConfig
    from search.space.space import SearchSpace

_BASELINES = "/baselines"
# User attributes of a trial, by what they hold.
WORKER, RECIPE, SCORE, OUTCOMES, SECONDS, TOKENS, ENDS, LIKELIHOOD, SAME_AS, NAME, KIND, NUMBER = (
    "worker", "recipe", "score", "outcomes", "seconds", "tokens", "end tokens", "log likelihood", "same as", "name",
    "kind", "number",
)  # fmt: skip
# User attributes of the search's study.
_FIRST, _REPORT, _REPORT_TRIED, _SPLITS, _WEIGHTS = "first number", "report/", "report tried/", "splits", "weights/"
NO_SPLITS: Mapping[str, Split] = {}


class NothingYet(SearchError):
    """A search has only begun: nothing was scored, and its studies may still be made."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model that candidates are compared with: a parent, or the parents' average."""

    kind: str  # parent | baseline
    name: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Studies:
    """The two studies of a results folder. To be closed: then the folder can be copied."""

    folder: ResultsFolder
    storage: RDBStorage
    search: Study
    baselines: Study
    first_number: int  # of the search's trials, which is how many baselines there are

    @classmethod
    def create(
        cls,
        folder: ResultsFolder,
        config: SearchConfig,
        baselines: Sequence[Baseline],
        splits: Mapping[str, Split] = NO_SPLITS,
        retry_failed: bool = False,
    ) -> Studies:
        """Make the studies, or open those that are there; what must run first is enqueued once.

        Args:
            folder: where they are.
            config: the search's.
            baselines: what is scored first.
            splits: how the outcomes on the splits ``search`` and ``report`` are to be read; by default as those of one
                set, with one sample a problem.
            retry_failed: let all that failed be run again.

        Raises SearchError if they were there once: else what was scored would be written over.
        """
        start = config.warm_starts[0] if config.warm_starts else {}
        with folder.lock():
            storage = open_storage(folder)
            if folder.holds_scores() and folder.study not in optuna.get_all_study_names(storage):
                raise SearchError(f"{folder.database}: holds no study {folder.study!r}; {RESTORE}")
            search = _create(storage, folder.study, config.objectives)
            search.sampler = SeededSampler(config.search.sampler, config.search.seed, start)
            first = _create(storage, folder.study + _BASELINES, config.objectives)
            if _FIRST not in search.user_attrs:
                enqueued = len(first.get_trials(deepcopy=False))
                for number, baseline in list(enumerate(baselines))[enqueued:]:
                    first.enqueue_trial({}, user_attrs=_attributes(number, baseline))
                search.set_user_attr(_SPLITS, {name: split.plain() for name, split in splits.items()})
                search.set_user_attr(_FIRST, len(baselines))
            for params in config.warm_starts:
                search.enqueue_trial(params, skip_if_exists=True)
            studies = cls(folder, storage, search, first, int(search.user_attrs[_FIRST]))
            studies._retry(retry_failed)
            folder.keep_completions(studies._alive())
        return studies

    @classmethod
    def open(cls, folder: ResultsFolder) -> Studies:
        """Open the studies of a folder to read them.

        Raises SearchError if there are none; NothingYet if there are none yet.
        """
        names = (folder.study, folder.study + _BASELINES)
        if not folder.holds_scores() and not holds_studies(folder, names):
            raise NothingYet(f"{folder.path}: a search begins here; no trial is over yet")
        folder.require_database(missing=True)
        storage = open_storage(folder, reading=True)
        try:
            search, first = (optuna.load_study(study_name=name, storage=storage) for name in names)
        except KeyError:
            raise SearchError(f"{folder.database}: holds no study {folder.study!r}; {RESTORE}") from None
        return cls(folder, storage, search, first, int(search.user_attrs.get(_FIRST, 0)))

    def close(self) -> None:
        """Let go of the database; the last one to do so leaves a single file."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def claim_baseline(self, worker: str, besides: Collection[int] = ()) -> Trial | None:
        """Take the next baseline that waits, if any does; not one whose number is among `besides`."""
        with self.folder.lock():
            trials = self._revived(self.baselines)
            waits = any(trial.state is TrialState.WAITING for trial in trials)
            if not waits and not self._enqueue_again(self.baselines, trials, besides):
                return None
            return self._take(self.baselines, worker, {})

    def claim(self, worker: str, total: int, space: SearchSpace, besides: Collection[int] = ()) -> Trial | None:
        """Take the next trial, its numbers suggested, if there are not `total` of them yet, taken by whomever.

        Args:
            worker: who takes it.
            total: how many there shall be.
            space: where new numbers are from.
            besides: numbers of trials that this worker does not run again.
        """
        with self.folder.lock():
            trials, reruns = self._revived(self.search), self._reruns(self.search)
            # Whatever runs now has a worker that lives.
            taken = len(reruns.over(trials)) + sum(trial.state is TrialState.RUNNING for trial in trials)
            if taken >= total:
                return None
            again = taken + len(reruns.waiting(trials)) >= total
            if again and not self._enqueue_again(self.search, trials, besides):
                return None
            return self._take(self.search, worker, space.distributions())

    def put_back(self, study: Study, trial: Trial, reason: str = "", ended: bool = False) -> None:
        """Leave a claimed trial to be run again.

        Args:
            study: the trial's.
            trial: what was claimed; if it is over, nothing is done.
            reason: what the machine failed with; nothing where a person stopped the worker.
            ended: whether that is the worker's end: at the second time, the trial fails.
        """
        with self.folder.lock():
            self._reruns(study).put_back(study.get_trials(deepcopy=False)[trial.number], reason, ended)

    def give_up(self, study: Study, trial: Trial, tries: int) -> None:
        """Let a trial that was put back fail, if the machine has failed at it so many times."""
        with self.folder.lock():
            self._reruns(study).give_up(trial.number, tries)

    def waiting_again(self) -> int:
        """Return how many trials of the search are left to be run again."""
        return len(self._reruns(self.search).waiting(self.search.get_trials(deepcopy=False)))

    def running_elsewhere(self) -> int:
        """Return how many trials of the search are run by workers that live."""
        with self.folder.lock():
            trials = self.search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return len(trials) - len(self._orphans(trials))

    def number(self, trial: FrozenTrial | Trial) -> int:
        """Return the number that people see."""
        if NUMBER in trial.user_attrs:
            return int(trial.user_attrs[NUMBER])
        return self.first_number + trial.number

    def trials(self) -> list[FrozenTrial]:
        """Return the search's trials that are over, without those that are run again."""
        return self._reruns(self.search).over(self.search.get_trials(deepcopy=False))

    def twin(self, trial: Trial) -> FrozenTrial | None:
        """Return the first trial that is complete and has the same numbers, if there is one."""
        complete, params = TrialState.COMPLETE, trial.params
        return next((each for each in self.trials() if each.state is complete and each.params == params), None)

    def baseline_trials(self) -> list[FrozenTrial]:
        """Return the baselines that are over; one that is run again is not."""
        latest = {trial.user_attrs[NUMBER]: trial for trial in self.baselines.get_trials(deepcopy=False)}
        return self._reruns(self.baselines).over(list(latest.values()))

    def front(self) -> frozenset[int]:
        """Return the Pareto front of a search with several objectives, by the number that people see; else nothing."""
        if len(self.search.directions) == 1:
            return frozenset()
        return frozenset(self.number(trial) for trial in self.search.best_trials)

    def split(self, name: str) -> Split:
        """Return how outcomes on a split are to be read: ``search`` or ``report``."""
        known = self.search.user_attrs.get(_SPLITS, {}).get(name)
        return Split.restored(known) if known else Split()

    def save_weights(self, number: int, digest: str) -> None:
        """Keep the digest of the weights that are scored on the report split."""
        self.search.set_user_attr(f"{_WEIGHTS}{number}", digest)

    def weights(self, number: int) -> str | None:
        """Return the digest of the weights that were scored on the report split, by the number that people see."""
        found: str | None = self.search.user_attrs.get(f"{_WEIGHTS}{number}")
        return found

    def save_report(self, number: int, outcomes: str) -> None:
        """Keep outcomes on the report split; a finished trial takes no attributes itself."""
        self.search.set_user_attr(f"{_REPORT}{number}", outcomes)

    def reports(self) -> dict[int, str]:
        """Return the outcomes on the report split, by the number that people see."""
        found = {key: value for key, value in self.search.user_attrs.items() if key.startswith(_REPORT)}
        return {int(key.removeprefix(_REPORT)): value for key, value in found.items()}

    def report_tried(self, number: int) -> list[str]:
        """Return why a model has no outcomes on the report split, run by run."""
        tried = self._tried_reports().get(number, [])
        return [tried] if isinstance(tried, str) else tried

    def try_report(self, number: int, tried: Sequence[str] | str) -> None:
        """Keep why a model has no outcomes on the report split: run by run; one text if that is how it stays."""
        self.search.set_user_attr(f"{_REPORT_TRIED}{number}", tried)

    def give_up_report(self, number: int, tries: int) -> None:
        """Let a model have no outcomes on the report split, if it was run on it so many times."""
        if len(tried := self.report_tried(number)) >= tries:
            self.try_report(number, never_finished(tried))

    def given_up(self) -> frozenset[int]:
        """Return the models that have no outcomes on the report split, and will have none."""
        tried = self._tried_reports().items()
        return frozenset(n for n, why in tried if isinstance(why, str) or (len(why) >= TRIES and why[-1] == DIED))

    def _tried_reports(self) -> dict[int, list[str] | str]:
        found = {key: value for key, value in self.search.user_attrs.items() if key.startswith(_REPORT_TRIED)}
        return {int(key.removeprefix(_REPORT_TRIED)): value for key, value in found.items()}

    def _take(self, study: Study, worker: str, distributions: dict[str, Any]) -> Trial:
        # The numbers are drawn inside the lock: a quasi-random sequence keeps its place in the study.
        trial = study.ask(distributions)
        trial.set_user_attr(WORKER, worker)
        return trial

    def _revived(self, study: Study) -> Sequence[FrozenTrial]:
        """Return all trials of a study, after what died with its worker was put back."""
        trials = study.get_trials(deepcopy=False)
        for trial in (orphans := self._orphans(trials)):
            # One without a worker was taken, and never begun.
            self._reruns(study).put_back(trial, DIED if WORKER in trial.user_attrs else "", ended=True)
        return study.get_trials(deepcopy=False) if orphans else trials

    def _enqueue_again(self, study: Study, trials: Sequence[FrozenTrial], besides: Collection[int]) -> bool:
        """Enqueue the first of a study's trials that waits to be run again, if any does."""
        reruns = self._reruns(study)
        trial = next((trial for trial in reruns.waiting(trials) if self.number(trial) not in besides), None)
        if trial:
            reruns.enqueue(trial, (KIND, NAME, NUMBER, RECIPE) if KIND in trial.user_attrs else ())
        return trial is not None

    def _retry(self, all_that_failed: bool) -> None:
        """Put back the baselines that failed at their first run, as without them nothing can be compared; or all."""
        of_search = self.trials() if all_that_failed else []
        for study, trials in ((self.baselines, self.baseline_trials()), (self.search, of_search)):
            for trial in trials:
                reruns = self._reruns(study)
                if trial.state is TrialState.FAIL and (all_that_failed or not reruns.was_retried(trial)):
                    reruns.retry(trial)
        if all_that_failed:
            for number in self._tried_reports():
                self.try_report(number, [])

    def _reruns(self, study: Study) -> Reruns:
        return Reruns(study, self.storage)

    def _alive(self) -> set[int]:
        """Return the numbers of the trials that are complete, or run by workers that live."""
        alive = (TrialState.COMPLETE, TrialState.RUNNING)
        return {
            self.number(trial)
            for study in (self.search, self.baselines)
            for trial in study.get_trials(deepcopy=False, states=alive)
            if trial.state is TrialState.COMPLETE or self.folder.is_at_work(trial.user_attrs.get(WORKER, "none"))
        }

    def _orphans(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        # Taking a trial and signing it happen inside the lock that is held here: one without a worker has lost it.
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        return [trial for trial in running if not self.folder.is_at_work(trial.user_attrs.get(WORKER, "none"))]


def score(trial: FrozenTrial) -> float | None:
    """Return what a trial scores: its objective, or the mean of several by weight; None if it is not complete."""
    if trial.state is not TrialState.COMPLETE:
        return None
    return float(trial.user_attrs[SCORE]) if len(trial.values) > 1 else trial.values[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's own log lines off the terminal; what a person should see comes from the progress display."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _create(storage: RDBStorage, name: str, objectives: int) -> Study:
    return optuna.create_study(
        storage=storage, study_name=name, directions=["maximize"] * objectives, load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip


def _attributes(number: int, baseline: Baseline) -> dict[str, Any]:
    return {KIND: baseline.kind, NAME: baseline.name, NUMBER: number, RECIPE: baseline.recipe.to_dict()}
