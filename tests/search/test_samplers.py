"""Samplers propose the same for the same seed, wherever a search was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from search import SearchConfig
from search.results import ResultsFolder
from search.samplers import SAMPLERS
from search.space.config import Sampler
from search.study import Studies, quiet
from tests.search.family import Family

NAMES = get_args(Sampler)
Search = Callable[[Path, Sampler, int, int], list[dict[str, float]]]


@pytest.fixture
def search(shared_family: Family) -> Search:
    """Return a function that runs a search of some trials on a made-up score, in one go or in several, in a folder."""

    def run(folder: Path, sampler: Sampler, trials: int, seed: int = 0) -> list[dict[str, float]]:
        config = SearchConfig.parse(shared_family.config(search=f", sampler: {sampler}"), folder=shared_family.folder)
        config = config.with_seed(seed)
        with quiet():
            results = ResultsFolder.create(folder, config, config.identity)
            studies = Studies.create(results, config, [])
            with results.sign_in() as worker:
                while trial := studies.claim(worker, trials, config.space):
                    studies.search.tell(trial, -sum((value - 0.6) ** 2 for value in trial.params.values()))
            return [trial.params for trial in studies.trials()]

    return run


def test_every_sampler_of_the_config_is_registered() -> None:
    assert set(SAMPLERS) == set(NAMES)


@pytest.mark.parametrize("sampler", NAMES)
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    search: Search, sampler: Sampler, tmp_path: Path
) -> None:
    trials = {"tpe": 14, "cmaes": 14, "gp": 12}.get(sampler, 8)  # these three draw at random at first
    whole = search(tmp_path / "whole", sampler, trials, 0)
    search(tmp_path / "parts", sampler, trials // 2, 0)
    assert search(tmp_path / "parts", sampler, trials, 0) == whole
    assert len({tuple(params.values()) for params in whole}) == trials


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_another_seed_is_another_search(search: Search, sampler: Sampler, tmp_path: Path) -> None:
    assert search(tmp_path / "0", sampler, 3, 0) != search(tmp_path / "1", sampler, 3, 1)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_a_sampler_that_learns_ends_nearer_than_it_began(search: Search, sampler: Sampler, tmp_path: Path) -> None:
    def distance(params: dict[str, float]) -> float:
        return sum((value - 0.6) ** 2 for value in params.values())

    found = [distance(params) for params in search(tmp_path / "run", sampler, 24, 0)]
    assert sum(found[-8:]) < 0.5 * sum(found[:8])


def test_cmaes_begins_around_the_first_warm_start(shared_family: Family, tmp_path: Path) -> None:
    start = {"models[0].parameters.density[0]": 0.95, "models[0].parameters.density[1]": 0.3}
    start["models[1].parameters.weight"] = 0.05
    plain = SearchConfig.parse(shared_family.config(search=", sampler: cmaes"), folder=shared_family.folder)
    (shared_family.folder / "start.yaml").write_text(plain.space.recipe_at(start).to_yaml(), encoding="utf-8")
    text = shared_family.config(search=", sampler: cmaes, enqueue: [start.yaml]")
    config = SearchConfig.parse(text, folder=shared_family.folder)
    with quiet():
        results = ResultsFolder.create(tmp_path / "run", config, config.identity)
        studies = Studies.create(results, config, [])
        with results.sign_in() as worker:
            while trial := studies.claim(worker, 9, config.space):
                studies.search.tell(trial, 0.5)
        first, *others = [trial.params for trial in studies.trials()]
    assert first == start
    weights = [params["models[1].parameters.weight"] for params in others]
    assert sum(weights) / len(weights) < 0.35
