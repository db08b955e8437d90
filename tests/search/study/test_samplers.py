"""Samplers propose the same for the same seed, wherever a search was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler

from search import SearchConfig
from search.study.record import Scoring, TrialRecord
from search.study.samplers import SAMPLERS, Centre, Proposer, _values, check_options, history
from search.study.store import Job, Proposal, Records
from tests.search.family import Family
from tests.search.study.memory_store import MemoryStore

Parameters = Mapping[str, Any]
START = {
    "models[0].parameters.density[0]": 0.95,
    "models[0].parameters.density[1]": 0.3,
    "models[1].parameters.weight": 0.05,
}


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.parse(shared_family.config(), folder=shared_family.folder)


def merit(parameters: Parameters) -> float:
    return -float(sum((value - 0.6) ** 2 for value in parameters.values()))


class Search:
    """A search on a made-up score."""

    def __init__(
        self,
        config: SearchConfig,
        sampler: str,
        seed: int = 0,
        start: Parameters | None = None,
        options: Mapping[str, Any] | None = None,
        ascended: float | None = None,
    ) -> None:
        self.store = MemoryStore(lambda: 0.0)
        self.store.begin((), [Proposal(start, "warm start")] if start else [])
        self.space = config.space.distributions()
        self._sampler, self._seed, self._options = sampler, seed, options
        self._centre = Centre(start or {}, ascended)

    def run(self, trials: int, score: Callable[[Parameters], float] = merit) -> list[Parameters]:
        """Run one worker until there are so many trials, and return their parameters."""
        proposer = Proposer(self._sampler, self._seed, self.space, options=self._options)
        records = Records(self.store)
        with self.store.sign_in() as worker:
            while job := self.store.claim(worker, trials):
                if not job.record.parameters:
                    job = self.store.propose(job, proposer.propose(job.record.number, records.read(), self._centre))
                self.finish(job, score(job.record.parameters))
        return [record.parameters for record in records.read()]

    def finish(self, job: Job, score: float) -> None:
        scoring = replace(job.record.search, state="complete", score=score, scores=(score,))
        assert self.store.keep(job, job.record.scored("search", scoring))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(config: SearchConfig, sampler: str) -> None:
    # The first three draw at random at first, and NSGA-II has 20 trials in a generation.
    trials = {"tpe": 14, "cmaes": 14, "gp": 12, "nsgaii": 45}.get(sampler, 8)
    whole = Search(config, sampler).run(trials)
    parts = Search(config, sampler)
    parts.run(trials // 2)
    assert parts.run(trials) == whole
    if sampler != "nsgaii":  # a child may be like its parent
        assert len({tuple(parameters.values()) for parameters in whole}) == trials


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc"])
def test_a_long_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    config: SearchConfig, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.samplers._SHOWN", 10)
    whole = Search(config, sampler).run(45)
    parts = Search(config, sampler)
    parts.run(38)
    assert parts.run(45) == whole


def test_tpe_proposes_what_optunas_does_which_finds_the_space_in_the_trials(
    config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Search(config, "tpe").run(14)
    monkeypatch.setitem(SAMPLERS, "tpe", lambda draw: TPESampler(seed=draw.seed, multivariate=True, group=True))
    assert Search(config, "tpe").run(14) == ours


def test_of_a_long_history_the_newest_and_the_best_are_shown() -> None:
    def trial(number: int) -> TrialRecord:
        score = float(number % 700)
        return TrialRecord("trial", number, search=Scoring("complete", score=score, scores=(score,)))

    records = [TrialRecord("parent", 0, "a", search=Scoring("complete", score=9e9)), *map(trial, range(2_701))]
    shown = [record.number for record in history(records, 2_700)]
    assert shown[500:] == list(range(2_000, 2_701))
    assert shown[:500] == sorted(sorted(range(2_000), key=lambda number: (-(number % 700), number))[:500])
    assert history(records[:900], 899) == records[1:900]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc"])
def test_another_seed_is_another_search(config: SearchConfig, sampler: str) -> None:
    assert Search(config, sampler, 0).run(3) != Search(config, sampler, 1).run(3)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_sampler_that_learns_ends_nearer_than_it_began(config: SearchConfig, sampler: str) -> None:
    found = [-merit(parameters) for parameters in Search(config, sampler).run(24)]
    assert sum(found[-8:]) < 0.5 * sum(found[:8])


def test_a_quasi_random_trial_has_the_place_of_its_number_whatever_became_of_others(config: SearchConfig) -> None:
    whole = Search(config, "qmc").run(6)
    search = Search(config, "qmc")
    proposer, records = Proposer("qmc", 0, search.space), Records(search.store)
    with search.store.sign_in() as worker:
        jobs = [search.store.claim(worker, 6) for _ in range(6)]
        for job in reversed(jobs):  # all six workers began before any of them was done
            assert job
            drawn = proposer.propose(job.record.number, records.read())
            assert drawn.parameters == whole[job.record.number]
            search.store.propose(job, drawn)


def test_cmaes_begins_around_the_first_warm_start(config: SearchConfig) -> None:
    first, *others = Search(config, "cmaes", start=START).run(9, lambda _: 0.5)
    assert first == START
    weights = [parameters["models[1].parameters.weight"] for parameters in others]
    assert sum(weights) / len(weights) < 0.35


def test_auto_is_cmaes_around_what_an_ascent_has_found(config: SearchConfig) -> None:
    found = Search(config, "auto", start=START, ascended=0.01)
    first, *others = found.run(9, lambda _: 0.5)
    assert first == START
    for parameters in others:  # within four steps, of ranges no wider than 1.5
        assert parameters == pytest.approx(START, abs=4 * 0.01 * 1.5)
    assert {record.proposed_by for record in found.store.changed()[0]} == {"warm start", "cmaes"}


def test_auto_is_tpe_where_no_ascent_has_led_anywhere(config: SearchConfig) -> None:
    assert Search(config, "auto", start=START).run(14) == Search(config, "tpe", start=START).run(14)


@pytest.mark.parametrize("further", [{"method": CategoricalDistribution(["ties", "linear"])}, None])
def test_auto_is_tpe_where_cmaes_would_draw_at_random(config: SearchConfig, further: Any) -> None:
    space = config.space.distributions()
    space = space | further if further else dict(list(space.items())[:1])
    trial = TrialRecord("trial", 0)
    assert Proposer("auto", 0, space).propose(0, [trial], Centre(START, 0.1)).proposed_by == "tpe"


def test_a_proposal_says_what_it_was_drawn_from(config: SearchConfig) -> None:
    search = Search(config, "cmaes")
    search.run(3)
    with search.store.sign_in() as worker:
        jobs = [search.store.claim(worker, 9) for _ in range(2)]
        assert jobs[1]
        drawn = Proposer("cmaes", 0, search.space).propose(jobs[1].record.number, search.store.changed()[0])
    assert (drawn.proposed_by, drawn.seen) == ("cmaes", 3)
    assert drawn.sampler_notes == {"cma:generation": 0}
    assert drawn.parameters.keys() == search.space.keys()


def test_two_workers_at_once_propose_different_parameters(config: SearchConfig) -> None:
    search = Search(config, "tpe")
    search.run(12)
    proposer = Proposer("tpe", 0, search.space)
    with search.store.sign_in() as worker:
        jobs = [search.store.claim(worker, 14) for _ in range(2)]
        drawn = [proposer.propose(job.record.number, search.store.changed()[0]).parameters for job in jobs if job]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("sampler", "options", "complaint"),
    [
        ("tpe", {"n_startup": 3}, "tpe has no option 'n_startup'.*n_startup_trials"),
        ("random", {"seed": 3}, r"random has no option 'seed' \(known: none\)"),
        ("cmaes", {"x0": 1}, "cmaes has no option 'x0'"),
        ("qmc", {"qmc_type": "sobel"}, "qmc: .*sobel"),
        ("auto", {"sigma0": 0.1}, "auto has no options, .*; set sampler"),
    ],
)
def test_an_option_that_a_sampler_does_not_have_is_refused_by_name(
    sampler: str, options: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_options(sampler, options)


def test_options_reach_the_sampler(config: SearchConfig) -> None:
    narrow = Search(config, "cmaes", start=START, options={"sigma0": 0.001, "n_startup_trials": 0})
    for parameters in narrow.run(4):
        assert parameters == pytest.approx(START, abs=0.01)


def test_a_grid_tries_every_combination_once(config: SearchConfig) -> None:
    found = Search(config, "grid", options={"points": 2}).run(8)
    assert len({tuple(parameters.values()) for parameters in found}) == 8
    assert {value for parameters in found for value in parameters.values()} == {
        end for each in config.space.distributions().values() for end in (each.low, each.high)
    }


@given(st.integers(1, 9), st.integers(0, 5), st.integers(1, 20), st.integers(1, 4))
def test_the_values_of_a_grid_are_of_the_range(points: int, low: int, width: int, step: int) -> None:
    high = low + width * step
    whole = _values(IntDistribution(low, high, step=step), points)
    assert set(whole) <= set(range(low, high + 1, step))
    assert len(whole) == min(points, width + 1) or points > 2
    found = _values(FloatDistribution(low + 1, high + 1, log=True), points)
    assert found[0] == pytest.approx(low + 1)
    assert found[-1] == pytest.approx(high + 1 if points > 1 else low + 1)
