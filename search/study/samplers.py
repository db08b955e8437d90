"""Samplers: they propose the parameters of the next trial.

Guarantees: a trial's parameters depend only on the seed, the trial's number and the records seen. So a stopped search
continues as if it had not been stopped, and two workers do not propose the same. A trial's place in a quasi-random
sequence is its number.
"""

from __future__ import annotations

import heapq
import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from merging import suggest
from search.board.ranking import merit
from search.study.projection import Projection, quiet
from search.study.record import Parameters, TrialRecord
from search.study.store import Proposal

AUTO = "auto"
"""The sampler that is CMA-ES around the best proposal of an ascent, and TPE if no ascent has led anywhere."""
_SHOWN = 500
# Arguments that a search decides, or that a config cannot express.
_NOT_OPTIONS = (
    "self", "draw", "seed", "x0", "independent_sampler", "warn_independent_sampling", "warn_asynchronous_seeding",
    "constraints_func", "source_trials", "gamma", "weights", "mutation", "crossover", "restart_strategy",
    "elite_population_selection_strategy", "child_generation_strategy", "after_trial_strategy", "consider_prior",
    "consider_magic_clip", "prior_weight",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Centre:
    """The point around which a sampler with a centre begins.

    Attributes:
        parameters: the parameters of the point; empty if there is none.
        ascended: the length of a step of the ascent that led there, as a fraction of each range; None without one.
    """

    parameters: Parameters = field(default_factory=dict)
    ascended: float | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """The inputs for drawing the parameters of one trial.

    Attributes:
        search_seed: the search's seed.
        number: the trial's number.
        space: the distribution of each parameter.
        centre: the point around which a sampler with a centre begins.
        options: the sampler's options, by Optuna's names.
    """

    search_seed: int
    number: int
    space: Mapping[str, BaseDistribution]
    centre: Centre = Centre()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The trial's own seed."""
        return _seed(self.search_seed, self.number)


class _Genetic(optuna.samplers.NSGAIISampler):
    """NSGA-II with the parents of a generation always in the same order, whether Optuna finds or remembers them."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)


class _Estimator(optuna.samplers.TPESampler):
    """TPE that is given the space, instead of finding it in the trials again, which all have the same one."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(seed=draw.seed, **{"multivariate": True, **draw.options})
        self._draw = draw

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._draw.options.get("group") or not self._draw.options.get("multivariate", True):
            return super().infer_relative_search_space(study, trial)
        # Sorted, so that the order does not depend on the config's.
        return {name: each for name, each in sorted(self._draw.space.items()) if not each.single()}


class _Sequence(optuna.samplers.QMCSampler):
    """A quasi-random sequence in which a trial's place is its number, instead of a count kept in the study."""

    def __init__(self, draw: Draw) -> None:
        given = {"scramble": True, "warn_independent_sampling": False, **draw.options}
        super().__init__(seed=_seed(draw.search_seed, 0), **given)
        self._draw = draw

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return dict(self._draw.space)

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self._draw.number


def _grid(draw: Draw, points: int = 3) -> BaseSampler:
    """Return a sampler that tries every combination of `points` values per range, in a random order."""
    values = {name: _values(it, points) for name, it in draw.space.items()}
    return optuna.samplers.GridSampler(values, seed=_seed(draw.search_seed, 0))  # one order for all trials


def _values(distribution: BaseDistribution, points: int) -> list[Any]:
    """Return up to `points` values of a range, including its ends, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    values = (np.geomspace if distribution.log else np.linspace)(low, high, points)
    if step is not None:
        values = low + np.round((values - low) / step) * step
    kind = int if isinstance(distribution, IntDistribution) else float
    return list(dict.fromkeys(kind(value) for value in np.clip(values, low, high).tolist()))


def _evolution(draw: Draw) -> BaseSampler:
    """Return CMA-ES; around the result of an ascent it begins with the spread of the ascent's steps."""
    centre = draw.centre
    spread = {"sigma0": centre.ascended} if centre.ascended else {}
    given = {"warn_independent_sampling": False, **spread, **draw.options}
    return optuna.samplers.CmaEsSampler(seed=draw.seed, x0=dict(centre.parameters) or None, **given)


SAMPLERS: Mapping[str, Callable[[Draw], BaseSampler]] = {
    "tpe": _Estimator,
    "cmaes": _evolution,
    "gp": lambda draw: optuna.samplers.GPSampler(seed=draw.seed, warn_independent_sampling=False, **draw.options),
    "nsgaii": lambda draw: _Genetic(seed=draw.seed, **{"population_size": 20, **draw.options}),
    "qmc": _Sequence,
    "random": lambda draw: optuna.samplers.RandomSampler(seed=draw.seed, **draw.options),
    "grid": lambda draw: _grid(draw, **draw.options),
}


class Proposer:
    """Proposes parameters with one of Optuna's samplers; each trial gets a new sampler.

    Args:
        name: the sampler's name.
        seed: the search's seed.
        space: the distribution of each parameter.
        objectives: the number of scores of a trial.
        options: see `Draw`.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        space: Mapping[str, BaseDistribution],
        objectives: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._seed = seed
        self._space = space
        self._options = options or {}
        # NSGA-II finds the parents of a generation in earlier generations; with several scores, no trial is the best.
        self._sees_all = name == "nsgaii" or objectives > 1
        with quiet():
            self._projection = Projection(space, objectives)

    def propose(self, number: int, records: Sequence[TrialRecord], centre: Centre = Centre()) -> Proposal:
        """Draw the parameters of a trial that is among the records and has none yet."""
        name = self._sampler_at(centre)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # x0 of CMA-ES is deprecated since Optuna 4.9 without a replacement, and stays until 6.
            warnings.simplefilter("ignore", FutureWarning)
            self._projection.update(records if self._sees_all else history(records, number))
            sampler = SAMPLERS[name](Draw(self._seed, number, self._space, centre, self._options))
            parameters, notes = self._projection.draw(number, sampler)
        seen = sum(record.is_over for record in records if record.kind == "trial")
        return Proposal(parameters, name, seen, notes)

    def _sampler_at(self, centre: Centre) -> str:
        """Return which sampler draws. It is not CMA-ES if that would draw at random: choices, or a single parameter."""
        if self._name != AUTO:
            return self._name
        varied = [found for found in self._space.values() if not found.single()]
        has_choices = any(isinstance(found, CategoricalDistribution) for found in varied)
        return "cmaes" if centre.ascended and len(varied) > 1 and not has_choices else "tpe"


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError, with the known options, for an option that a sampler lacks, or a value that it refuses."""
    if name == AUTO:
        raise ValueError(f"{AUTO} has no options, as it may be one of two samplers; set sampler, such as tpe or cmaes")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        special: Mapping[str, Callable[..., Any]] = {
            "grid": _grid, "qmc": optuna.samplers.QMCSampler, "tpe": optuna.samplers.TPESampler,
        }  # fmt: skip
        made = special.get(name) or type(SAMPLERS[name](Draw(0, 0, {})))
        own = [key for key in inspect.signature(made).parameters if key not in _NOT_OPTIONS]
        for key in options:
            if key not in own:
                raise ValueError(f"{name} has no option {key!r}{suggest(key, own)} (known: {', '.join(own) or 'none'})")
        try:
            SAMPLERS[name](Draw(0, 0, {}, options=options))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from None


def history(records: Iterable[TrialRecord], number: int) -> list[TrialRecord]:
    """Return the trials that a sampler is shown to draw the parameters of a trial.

    These are all of the newest, 500 or more, and the best 500 of the older ones, because a sampler's time grows with
    the trials that it sees. The border between the two moves only every 500 trials, since that rebuilds the study.
    """
    trials = [record for record in records if record.kind == "trial"]
    border = (number // _SHOWN - 1) * _SHOWN
    older = heapq.nlargest(_SHOWN, (record for record in trials if record.number < border), key=merit)
    newer = [record for record in trials if record.number >= border]
    return sorted(older, key=lambda record: record.number) + newer


def _seed(search_seed: int, number: int) -> int:
    return random.Random(f"{search_seed} {number}").getrandbits(32)
