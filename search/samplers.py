"""Samplers: what proposes the numbers of the next trial.

Guarantees: a trial's numbers depend on the seed, the trial's number and the trials that are over, and on nothing else.
So a search that was stopped goes on as if it had not been, and two workers do not propose the same.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from search.space.config import Sampler

Maker = Callable[[int, Mapping[str, Any]], BaseSampler]


def _tpe(seed: int, _start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def _cmaes(seed: int, start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, x0=dict(start) or None, warn_independent_sampling=False)


def _gp(seed: int, _start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def _nsgaii(seed: int, _start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def _qmc(seed: int, _start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def _random(seed: int, _start: Mapping[str, Any]) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[Sampler, Maker] = {
    "tpe": _tpe, "cmaes": _cmaes, "gp": _gp, "nsgaii": _nsgaii, "qmc": _qmc, "random": _random,
}  # fmt: skip


@dataclass
class SeededSampler(BaseSampler):
    """One of Optuna's samplers, made anew for each trial with a seed of the trial's own.

    Attributes:
        name: which sampler.
        seed: the search's seed.
        start: the numbers around which a sampler that has a centre begins (CMA-ES); may be empty.
    """

    name: Sampler
    seed: int
    start: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inner = self._make(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the trial's own stream of random numbers."""
        self._inner = self._make(trial.number)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the numbers that are proposed together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose them."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose one of the others."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the sampler note how the trial ended."""
        self._inner.after_trial(study, trial, state, values)

    def _make(self, number: int) -> BaseSampler:
        # A quasi-random sequence is one for the whole search: its place in it is kept in the study.
        own = 0 if self.name == "qmc" else number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # x0 of CMA-ES is deprecated since Optuna 4.9 without anything in its place, and stays until 6.
            warnings.simplefilter("ignore", FutureWarning)
            return SAMPLERS[self.name](random.Random(f"{self.seed} {own}").getrandbits(32), self.start)
