"""The studies of a search: made, opened and resumed, with Optuna's RDB storage as the only shared state.

There are two: NAME holds the trials of the search space, NAME/baselines the parents and their average, which are no
points of the space. They are apart because a trial without parameters would empty Optuna's intersection search space
and so blind CMA-ES, GP and multivariate TPE.

Guarantees: a trial is claimed by one worker; a trial whose worker died is run again with its numbers; the sampler is
always the config's (Optuna's `load_study` alone would quietly fall back to TPE).
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from merging import Recipe
from search.config import Sampler, SearchConfig
from search.results import ResultsFolder

_BASELINES = "/baselines"
# User attributes of a trial, by what they hold.
WORKER, RECIPE, OUTCOMES, SECONDS, TOKENS, ERROR, NAME, KIND, RERUN = (
    "worker", "recipe", "outcomes", "seconds", "tokens", "error", "name", "kind", "rerun",
)  # fmt: skip
_REPORT = "report/"
_ORPHAN_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model that candidates are compared with: a parent, or the parents' average."""

    kind: str  # parent | baseline
    name: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Studies:
    """The two studies of a results folder."""

    search: Study
    baselines: Study

    @classmethod
    def create(cls, folder: ResultsFolder, config: SearchConfig, baselines: Sequence[Baseline], seed: int) -> Studies:
        """Make the studies, or open those that are there; what must run first is enqueued once."""
        storage = _storage(folder)
        search = _create(storage, folder.name, None)
        known = len(search.get_trials(deepcopy=False))
        search.sampler = make_sampler(config.search.sampler, _stream(seed, known))
        studies = cls(search, _create(storage, folder.name + _BASELINES, optuna.samplers.RandomSampler(seed=seed)))
        _enqueue_once(studies.baselines, [({}, _attributes(baseline)) for baseline in baselines])
        _enqueue_once(studies.search, [(params, {}) for params in config.warm_starts])
        return studies

    @classmethod
    def open(cls, folder: ResultsFolder) -> Studies:
        """Open the studies of a folder to read them."""
        storage = _storage(folder)
        return cls(
            *(optuna.load_study(study_name=folder.name + suffix, storage=storage) for suffix in ("", _BASELINES))
        )

    def revive(self) -> None:
        """Enqueue again what died with its worker, on this machine; the trial itself is marked as failed."""
        for study in (self.baselines, self.search):
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _is_orphan(trial):
                    _run_again(study, trial)


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """Return the sampler of a name, seeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=10)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        if name == "nsgaii":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        if name == "qmc":
            return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        return optuna.samplers.RandomSampler(seed=seed)


def claim(study: Study) -> Trial:
    """Take the next trial of a study: one that waits, or a new one."""
    trial = study.ask()
    trial.set_user_attr(WORKER, _this_worker())
    return trial


def waiting(study: Study) -> int:
    """Return how many trials are enqueued and not yet taken."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def done(study: Study) -> list[FrozenTrial]:
    """Return the trials that are over, without those that were run again."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and RERUN not in trial.user_attrs
    ]


def in_flight(study: Study) -> int:
    """Return how many trials some worker is running."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def save_report(study: Study, number: int, outcomes: Mapping[str, str]) -> None:
    """Keep a trial's outcomes on the report split; a finished trial takes no attributes itself."""
    study.set_user_attr(f"{_REPORT}{number}", dict(outcomes))


def reports(study: Study) -> dict[int, dict[str, str]]:
    """Return the outcomes on the report split, by trial number."""
    found = {key: value for key, value in study.user_attrs.items() if key.startswith(_REPORT)}
    return {int(key.removeprefix(_REPORT)): value for key, value in found.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's own log lines off the terminal; what a person should see comes from the progress display."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _storage(folder: ResultsFolder) -> RDBStorage:
    # Several workers may write at once: each waits for the others rather than fail.
    return RDBStorage(folder.storage_url, engine_kwargs={"connect_args": {"timeout": 60}})


def _create(storage: RDBStorage, name: str, sampler: BaseSampler | None) -> Study:
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=sampler,
        pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip


def _enqueue_once(study: Study, entries: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    if not study.get_trials(deepcopy=False):
        for params, attributes in entries:
            study.enqueue_trial(params, user_attrs=attributes)


def _attributes(baseline: Baseline) -> dict[str, Any]:
    return {KIND: baseline.kind, NAME: baseline.name, RECIPE: baseline.recipe.to_dict()}


def _stream(seed: int, known: int) -> int:
    # A resumed sampler must not propose again what it proposed before it was stopped.
    return (seed * 1_000_003 + known) % 2**32


def _this_worker() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def _start_time(pid: int) -> str:
    # The kernel's start time tells a process from a later one with the same pid.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_orphan(trial: FrozenTrial) -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:  # its worker died between taking it and saying so
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _ORPHAN_AFTER
    return bool(worker["host"] == socket.gethostname() and worker["started"] != _start_time(worker["pid"]))


def _run_again(study: Study, trial: FrozenTrial) -> None:
    storage = study._storage
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was faster
        storage.set_trial_user_attr(trial._trial_id, RERUN, True)
        if storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL):
            kept = {key: value for key, value in trial.user_attrs.items() if key in (KIND, NAME)}
            if KIND in kept:
                kept[RECIPE] = trial.user_attrs[RECIPE]
            study.enqueue_trial(trial.params, user_attrs=kept)
