"""Optuna's view of a search: a study of its trials, made from their records.

The records are the truth, and the study can be made from them again at any time. Samplers read it in memory;
optuna-dashboard reads it in an Optuna database. Reference models are not in it: they are not points of the space, and
trials without parameters would blind samplers that work on the parameters shared by all trials.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.errors import SearchError
from search.study.database import connect, database_errors
from search.study.record import Parameters, SamplerNotes, State, TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

# A trial that is to be run again counts as running: it has parameters, and will have a score.
_STATES: Mapping[State, TrialState] = {
    "waiting": TrialState.RUNNING,
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Projection:
    """A study that shows trials of a search, in the order of their numbers.

    Args:
        distributions: the distribution of each searched parameter.
        objectives: the number of scores of a trial.
        storage: the storage of the study; by default in memory.
        name: the study's name.

    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        objectives: int = 1,
        storage: BaseStorage | None = None,
        name: str = "search",
    ) -> None:
        self._distributions = dict(distributions)
        self._objectives = objectives
        self._storage = storage or optuna.storages.InMemoryStorage()
        self._name = name
        self._shown: Sequence[TrialRecord] = []
        self._study_id = self._create()

    def update(self, records: Sequence[TrialRecord]) -> None:
        """Show the trials among some records as they are now.

        This is fast if they begin with the trials shown before.
        """
        trials = [record for record in records if record.kind == "trial"]
        pairs = enumerate(zip(self._shown, trials, strict=False))
        changed = [(place, old, new) for place, (old, new) in pairs if old is not new]
        # Optuna never changes a trial that is over; if one is run again all the same, the study is rebuilt.
        if any(old.number != new.number or (old.is_over and old.search != new.search) for _, old, new in changed):
            self._storage.delete_study(self._study_id)
            self._study_id, self._shown = self._create(), []
            changed = []
        for place, old, new in changed:
            if not old.is_over:
                self._change(place, new)
        for new in trials[len(self._shown) :]:
            self._storage.create_new_trial(self._study_id, self._trial(new))
        self._shown = trials

    def draw(self, number: int, sampler: BaseSampler) -> tuple[Parameters, SamplerNotes]:
        """Let a sampler draw the parameters of a trial that is shown without any.

        Returns:
            The parameters, and the attributes that the sampler stores with the trial.
        """
        study = self.study
        place = next(place for place, record in enumerate(self._shown) if record.number == number)
        sampler.before_trial(study, study.get_trials(deepcopy=False)[place])
        trial = study.get_trials(deepcopy=False)[place]  # read again, since the sampler may have changed it
        drawn = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        for name, distribution in self._distributions.items():
            if name not in drawn:
                drawn[name] = sampler.sample_independent(study, trial, name, distribution)
        parameters = {
            name: distribution.to_external_repr(distribution.to_internal_repr(drawn[name]))
            for name, distribution in self._distributions.items()
        }
        return parameters, dict(self._storage.get_trial_system_attrs(trial._trial_id))

    @property
    def study(self) -> Study:
        """The study, which must not be changed."""
        # Loaded each time, because a study caches the trials that it has read.
        return optuna.load_study(study_name=self._name, storage=self._storage, sampler=RandomSampler(seed=0))

    def _create(self) -> int:
        return self._storage.create_new_study([StudyDirection.MAXIMIZE] * self._objectives, self._name)

    def _trial(self, record: TrialRecord) -> FrozenTrial:
        trial = create_trial(
            state=_STATES[record.search.state],
            values=self._values(record),
            params=dict(record.parameters),
            distributions={name: self._distributions[name] for name in record.parameters},
            user_attrs=_attributes(record),
            system_attrs=dict(record.sampler_notes),
        )
        if record.search.started is not None:
            trial.datetime_start = datetime.fromtimestamp(record.search.started)
            if record.is_over:
                seconds = record.search.seconds.get("total", 0.0)
                trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
        return trial

    def _change(self, place: int, record: TrialRecord) -> None:
        """Show a trial that was not over as it is now."""
        storage, shown = self._storage, self._storage.get_all_trials(self._study_id, deepcopy=False)[place]
        for name in record.parameters.keys() - shown.params.keys():
            distribution = self._distributions[name]
            internal = distribution.to_internal_repr(record.parameters[name])
            storage.set_trial_param(shown._trial_id, name, internal, distribution)
        for key in record.sampler_notes.keys() - shown.system_attrs.keys():
            storage.set_trial_system_attr(shown._trial_id, key, record.sampler_notes[key])
        for key, value in _attributes(record).items():
            storage.set_trial_user_attr(shown._trial_id, key, value)
        storage.set_trial_state_values(shown._trial_id, _STATES[record.search.state], self._values(record))

    def _values(self, record: TrialRecord) -> Sequence[float] | None:
        return record.search.scores if record.search.state == "complete" else None


def write_study(
    file: Path,
    name: str,
    records: Sequence[TrialRecord],
    distributions: Mapping[str, BaseDistribution],
    objectives: int,
) -> None:
    """Write the trials of a search into an SQLite file, as Optuna and optuna-dashboard read it.

    Args:
        file: the file, created if it is missing; a study of that name in it is replaced.
        name: the study's name.
        records: the records of the search.
        distributions: the distribution of each searched parameter.
        objectives: how many scores a trial has.

    Raises:
        SearchError: the file cannot be written, or is not a database.
    """

    if file.is_dir():
        raise SearchError(f"{file}: is a folder; give a file, which is made if need be")

    def opened() -> sqlite3.Connection:
        # By path, because SQLAlchemy would interpret a ? or a % in a URL.
        with database_errors(file):
            return connect(file)

    with quiet():
        storage = optuna.storages.RDBStorage("sqlite:///optuna.db", engine_kwargs={"creator": opened})
        with contextlib.suppress(KeyError):
            storage.delete_study(storage.get_study_id_from_name(name))
        Projection(distributions, objectives, storage, name).update(records)
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's own log lines off the terminal; the progress display shows what users should see."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _attributes(record: TrialRecord) -> dict[str, object]:
    """Return the attributes of a trial that users may want to see in optuna-dashboard."""
    told = {
        "log_likelihood": record.search.log_likelihood,
        "same_as": record.same_as,
        "proposed_by": record.proposed_by,
        "worker": record.search.worker,
        "error": record.search.error,
    }
    return {key: value for key, value in told.items() if value not in (None, "")}
