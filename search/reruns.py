"""Trials that their worker could not finish, and that are run again under a later number.

Guarantees: each is run again once, whenever whoever sees to it is killed: a trial is marked first, and what is marked
waits until a trial is enqueued that names it. One that has ended its worker twice, by an error or by a death, fails.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

# How often a trial may fail to be finished.
TRIES = 2
DIED = "its worker died"
# User attribute of a trial: why it failed; or what is wrong with a model that has a score all the same.
ERROR = "error"
# And of one that runs again: Optuna's number of the one that was not finished, and why, run by run.
_AGAIN_OF, _TRIED = "again of", "tried"
# User attributes of the study: why a trial is run again, run by run; False if it is not, after all. Older folders have
# True, and the trial that was enqueued then does not name it.
_MARK = "run again/"


@dataclass(frozen=True, slots=True)
class Reruns:
    """The trials of one study that are run again. What changes something is to be called inside the folder's lock."""

    study: Study
    storage: BaseStorage

    def over(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of the study's trials that are over and not run again."""
        marks = self._marks_of(trials)
        return [trial for trial in trials if trial.state.is_finished() and marks.get(trial.number, False) is False]

    def waiting(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of all the study's trials that are to be run again and not enqueued yet."""
        enqueued = {trial.user_attrs.get(_AGAIN_OF) for trial in trials}
        marked = [number for number, tried in self._marks_of(trials).items() if isinstance(tried, list)]
        return [trials[number] for number in marked if trials[number].state.is_finished() and number not in enqueued]

    def put_back(self, trial: FrozenTrial, reason: str, ended: bool) -> None:
        """End a trial that runs, to be run again; one that is over stays as it is.

        Args:
            trial: what was taken.
            reason: why it is not finished; nothing if that says nothing of it.
            ended: whether that was its worker's end, which a trial may be once.
        """
        if trial.state.is_finished():
            return
        tried = [*trial.user_attrs.get(_TRIED, ()), *([reason] if reason else [])]
        if tried:
            self.storage.set_trial_user_attr(trial._trial_id, ERROR, never_finished(tried))
        self._mark(trial, False if ended and len(tried) >= TRIES else tried)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def give_up(self, number: int, tries: int) -> None:
        """Let a trial that was put back fail, if it was run so many times."""
        tried = self._marks().get(number)
        if isinstance(tried, list) and len(tried) >= tries:
            self.study.set_user_attr(f"{_MARK}{number}", False)

    def retry(self, trial: FrozenTrial) -> None:
        """Let a trial that has failed be run again, as if it had not been run."""
        self._mark(trial, [])

    def was_retried(self, trial: FrozenTrial) -> bool:
        """Whether this is not the trial's first run."""
        return _AGAIN_OF in trial.user_attrs

    def enqueue(self, trial: FrozenTrial, kept: Collection[str]) -> None:
        """Enqueue a trial that waits, with its numbers and those of its attributes that are to be kept."""
        attributes = {key: trial.user_attrs[key] for key in kept if key in trial.user_attrs}
        attributes |= {_AGAIN_OF: trial.number, _TRIED: self._marks()[trial.number]}
        # A warm start whose worker died before its numbers were suggested has them only in what Optuna keeps of it.
        self.study.enqueue_trial(trial.system_attrs.get("fixed_params", {}) | trial.params, user_attrs=attributes)

    def _marks_of(self, trials: Sequence[FrozenTrial]) -> dict[int, Any]:
        # What is marked has failed: most searches need not ask the database.
        return self._marks() if any(trial.state is TrialState.FAIL for trial in trials) else {}

    def _marks(self) -> dict[int, Any]:
        found = {key: value for key, value in self.study.user_attrs.items() if key.startswith(_MARK)}
        return dict(sorted((int(key.removeprefix(_MARK)), value) for key, value in found.items()))

    def _mark(self, trial: FrozenTrial, tried: list[str] | bool) -> None:
        self.study.set_user_attr(f"{_MARK}{trial.number}", tried)


def never_finished(tried: Sequence[str]) -> str:
    """Return why something has failed that was tried in vain: what came of each time."""
    if len(tried) == 1:
        return tried[0]
    return f"was run {len(tried)} times and never finished ({'; '.join(tried)}); run --retry-failed runs it again"
