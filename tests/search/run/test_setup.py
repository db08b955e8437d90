"""What candidates are compared with, and what is left of trials that were lost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from merging import Recipe
from search import SearchConfig
from search.results import ResultsFolder
from search.run.setup import reference_models
from search.study.local_store import LocalStore
from search.study.record import TrialRecord
from search.study.store import Proposal
from tests.search.family import Family


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.parse(shared_family.config(), folder=shared_family.folder)


def test_reference_models_are_each_parent_and_the_average_of_the_merged_ones(
    config: SearchConfig, shared_family: Family
) -> None:
    *parents, average = reference_models(config)
    names = [str(shared_family.a), str(shared_family.b), str(shared_family.base)]
    assert [(record.key, record.name) for record in parents] == [
        (f"parent-{number}", name) for number, name in enumerate(names)
    ]
    assert average.key == "average"
    assert Recipe.from_dict(average.recipe, "the average").parents() == tuple(names[:2])


def test_models_that_only_some_choices_use_are_parents_too(shared_family: Family) -> None:
    recipe = """
  merge_method: linear
  models:
    - {model: {choices: [a, b]}, parameters: {weight: 1}}
    - {model: base, parameters: {weight: 1}}
"""
    config = SearchConfig.parse(shared_family.config(recipe=recipe), folder=shared_family.folder)
    assert [record.kind for record in reference_models(config)].count("parent") == 3


def test_one_model_has_no_average(shared_family: Family) -> None:
    recipe = """
  merge_method: task_arithmetic
  base_model: base
  models:
    - {model: a, parameters: {weight: {low: 0, high: 1}}}
"""
    config = SearchConfig.parse(shared_family.config(recipe=recipe), folder=shared_family.folder)
    a, base = str(shared_family.a), str(shared_family.base)
    assert reference_models(config) == [
        TrialRecord("parent", 0, a, recipe=Recipe.single(a).to_dict()),
        TrialRecord("parent", 1, base, recipe=Recipe.single(base).to_dict()),
    ]


def test_completions_of_trials_that_were_lost_go_with_the_next_start(config: SearchConfig, tmp_path: Path) -> None:
    folder = ResultsFolder.create(tmp_path / "run", config, config.identity)
    with closing(LocalStore(folder.path)) as store, store.sign_in() as living:
        store.begin(reference_models(config), [Proposal({"density": value}, "warm start") for value in (0.1, 0.2)])
        running = store.claim(living, 9)
        assert running
        folder.save_completions(running.record, "search", [])
        with store.sign_in() as dying:
            for state in ("complete", "failed", "lost", "complete", "lost"):
                job = store.claim(dying, 9)
                assert job
                folder.save_completions(job.record, "search", [])
                if state != "lost":
                    store.keep(job, job.record.scored("search", replace(job.record.search, state=state)))
        folder.save_completions(TrialRecord("trial", 9), "report", [])
        folder.remove_lost_completions(store)
    kept = ["parent-0.jsonl", "parent-1.jsonl", "report-trial-9.jsonl", "trial-0.jsonl"]
    assert sorted(file.name for file in (folder.path / "completions").iterdir()) == kept
