"""Trials are claimed once, run again when their worker could not finish them, and numbered for good."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from merging import Recipe
from search import SearchConfig, SearchError
from search.database import storage_errors
from search.results import ResultsFolder
from search.study import KIND, NAME, NUMBER, WORKER, Baseline, Studies, quiet
from search.worker import baselines
from tests.search.family import Family


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.parse(shared_family.config(), folder=shared_family.folder)


def open_studies(folder: Path, config: SearchConfig) -> Studies:
    with quiet():
        return Studies.create(ResultsFolder.create(folder, config, config.identity), config, baselines(config))


def test_each_parent_and_the_equal_average_of_the_merged_ones_come_first(
    config: SearchConfig, shared_family: Family
) -> None:
    known = baselines(config)
    assert [baseline.name for baseline in known] == [
        str(shared_family.a), str(shared_family.b), str(shared_family.base), "equal average",
    ]  # fmt: skip
    assert known[-1].recipe.parents() == (str(shared_family.a), str(shared_family.b))


def test_models_that_only_some_choices_use_are_parents_too(shared_family: Family) -> None:
    config = SearchConfig.parse(
        shared_family.config(
            recipe="""
  merge_method: linear
  models:
    - {model: {choices: [a, b]}, parameters: {weight: 1}}
    - {model: base, parameters: {weight: 1}}
"""
        ),
        folder=shared_family.folder,
    )
    assert len([baseline for baseline in baselines(config) if baseline.kind == "parent"]) == 3


def test_two_workers_that_open_a_study_enqueue_its_parents_once(config: SearchConfig, tmp_path: Path) -> None:
    first, second = open_studies(tmp_path / "run", config), open_studies(tmp_path / "run", config)
    with first.folder.sign_in() as one, second.folder.sign_in() as other:
        claimed = [studies.claim_baseline(worker) for studies, worker in [(first, one), (second, other)] * 3]
    names = [trial.user_attrs[NAME] for trial in claimed if trial]
    assert names == [baseline.name for baseline in baselines(config)]


def test_two_workers_together_take_as_many_trials_as_were_asked_for(config: SearchConfig, tmp_path: Path) -> None:
    first, second = open_studies(tmp_path / "run", config), open_studies(tmp_path / "run", config)
    with first.folder.sign_in() as one, second.folder.sign_in() as other:
        claimed = [s.claim(worker, 3, config.space) for s, worker in [(first, one), (second, other)] * 3]
    taken = [trial for trial in claimed if trial]
    assert [trial.number for trial in taken] == [0, 1, 2]
    assert len({str(trial.params) for trial in taken}) == 3


def test_the_trial_of_a_worker_that_lives_is_left_to_it(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as one, studies.folder.sign_in() as other:
        assert studies.claim(one, 1, config.space)
        assert studies.claim(other, 1, config.space) is None


def test_the_trial_of_a_worker_that_died_is_run_again_with_its_numbers(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as dead:
        lost = studies.claim(dead, 1, config.space)
    with studies.folder.sign_in() as worker:
        again = studies.claim(worker, 1, config.space)
        assert lost
        assert again
        assert again.params == lost.params
        studies.search.tell(again, 0.5)
    assert [(trial.number, trial.value) for trial in studies.trials()] == [(again.number, 0.5)]


def test_a_trial_whose_worker_died_before_signing_it_is_run_again(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    studies.search.ask(config.space.distributions())
    with studies.folder.sign_in() as worker:
        again = studies.claim(worker, 1, config.space)
        assert again
        assert again.user_attrs[WORKER] == worker


class Killed(BaseException):
    """What no worker lives to see."""


# What Optuna writes down, each in one transaction.
WRITES = (
    "_create_new_trial",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_study_user_attr",
    "set_trial_param",
)


def kill_at_write(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """Let a worker die before the write with this number, counted from 0."""
    left = [last]

    def deadly(write: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return write(*arguments, **options)

        return wrapped

    for name in WRITES:
        monkeypatch.setattr(RDBStorage, name, deadly(getattr(RDBStorage, name)))


def finish(studies: Studies, config: SearchConfig, total: int) -> None:
    """Claim what there is and end it."""
    with studies.folder.sign_in() as worker:
        while trial := studies.claim_baseline(worker):
            studies.baselines.tell(trial, 0.5)
        while trial := studies.claim(worker, total, config.space):
            studies.search.tell(trial, 0.5)


def lose(studies: Studies, config: SearchConfig) -> dict[str, float]:
    """Claim a parent and a trial with a worker that dies, and return the trial's numbers."""
    with studies.folder.sign_in() as dead:
        assert studies.claim_baseline(dead)
        trial = studies.claim(dead, 9, config.space)
    assert trial
    return trial.params


def begin_again(way: str, studies: Studies, config: SearchConfig, kill: Callable[[], None]) -> None:
    """Let a trial and a parent end in some way without a score, and put them back after `kill`."""
    with studies.folder.sign_in() as worker:
        baseline, trial = studies.claim_baseline(worker), studies.claim(worker, 9, config.space)
        assert baseline
        assert trial
        if way == "the machine failed":
            kill()
            studies.put_back(studies.search, trial, "a bus error")
            studies.put_back(studies.baselines, baseline, "a bus error")
            return
        if way == "failures are retried":
            studies.search.tell(trial, state=TrialState.FAIL)
            studies.baselines.tell(baseline, state=TrialState.FAIL)
    kill()
    with quiet():
        Studies.create(studies.folder, config, [], retry_failed=True).close()


@pytest.mark.parametrize("way", ["a worker died", "the machine failed", "failures are retried"])
def test_whoever_is_killed_while_trials_are_put_back_runs_none_of_them_twice(
    way: str, config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_studies(tmp_path / "new", config).close()
    killed, last = True, 0
    while killed:
        shutil.copytree(tmp_path / "new", tmp_path / f"run-{last}")
        studies = open_studies(tmp_path / f"run-{last}", config)
        with monkeypatch.context() as deadly:
            try:
                begin_again(way, studies, config, partial(kill_at_write, deadly, last))
                with studies.folder.sign_in() as worker:
                    taken = studies.claim(worker, 1, config.space)
                killed = False
            except Killed:
                last += 1
        if not killed and taken:
            studies.search.tell(taken, 0.5)
        studies.close()
        with quiet():
            resumed = Studies.create(studies.folder, config, [], retry_failed=way == "failures are retried")
        finish(resumed, config, 2)
        complete = [trial for trial in resumed.search.trials if trial.state is TrialState.COMPLETE]
        first = resumed.search.trials[0].params
        assert [trial.params == first for trial in complete].count(True) == 1
        assert len(complete) == len(resumed.trials()) == 2
        scored = [trial for trial in resumed.baselines.trials if trial.state is TrialState.COMPLETE]
        assert Counter(trial.user_attrs[NUMBER] for trial in scored) == dict.fromkeys(range(4), 1)
        resumed.close()
    assert last >= 4


def test_whoever_is_killed_while_a_study_is_made_enqueues_no_parent_twice(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for last in range(6):
        with monkeypatch.context() as deadly:
            kill_at_write(deadly, last)
            with pytest.raises(Killed):
                open_studies(tmp_path / f"run-{last}", config)
        studies = open_studies(tmp_path / f"run-{last}", config)
        assert [trial.user_attrs[NUMBER] for trial in studies.baselines.trials] == [0, 1, 2, 3]
        studies.close()


def test_a_trial_that_waits_to_be_run_again_waits_for_all_others(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    lost = lose(studies, config)
    with studies.folder.sign_in() as worker:
        taken = [studies.claim(worker, 4, config.space) for _ in range(5)]
    assert [trial.params == lost for trial in taken if trial] == [False, False, False, True]
    assert taken[4] is None


def test_a_trial_that_killed_two_workers_is_over(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    for _ in range(2):
        with studies.folder.sign_in() as dead:
            assert studies.claim(dead, 1, config.space)
    with studies.folder.sign_in() as worker:
        assert studies.claim(worker, 1, config.space) is None
    [failed] = studies.trials()
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["error"].startswith("was run 2 times and never finished (its worker died; its worker died")


def test_what_folders_of_before_ran_again_is_not_run_once_more(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as worker:
        lost = studies.claim(worker, 9, config.space)
        assert lost
        studies.search.enqueue_trial(lost.params)
        studies.search.set_user_attr(f"run again/{lost.number}", True)
        studies.search.tell(lost.number, state=TrialState.FAIL)
        finish(studies, config, 1)
    assert [trial.number for trial in studies.trials()] == [1]
    assert len(studies.search.trials) == 2


def test_a_parent_that_failed_or_died_is_tried_again_under_its_number(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as worker:
        failed = studies.claim_baseline(worker)
        assert failed
        studies.baselines.tell(failed, state=TrialState.FAIL)
        assert studies.claim_baseline(worker)  # and is never heard of again
    resumed = open_studies(tmp_path / "run", config)
    with resumed.folder.sign_in() as worker:
        while trial := resumed.claim_baseline(worker):
            resumed.baselines.tell(trial, 0.5)
    ended = sorted(resumed.baseline_trials(), key=resumed.number)
    assert [resumed.number(trial) for trial in ended] == [0, 1, 2, 3]
    assert all(trial.state is TrialState.COMPLETE for trial in ended)
    assert [trial.user_attrs[NAME] for trial in ended] == [baseline.name for baseline in baselines(config)]


def test_a_parent_whose_worker_died_is_taken_by_one_that_lives(config: SearchConfig, tmp_path: Path) -> None:
    first, second = open_studies(tmp_path / "run", config), open_studies(tmp_path / "run", config)
    with second.folder.sign_in() as living:
        with first.folder.sign_in() as dead:
            assert first.claim_baseline(dead)
            assert second.claim_baseline(living)
            assert [second.claim_baseline(living) is not None for _ in range(3)] == [True, True, False]
        again = second.claim_baseline(living)
        assert again
        assert second.number(again) == 0
        assert second.claim_baseline(living) is None
    # It is not over, and so neither shown as failed nor missed when the search asks whether all parents failed.
    assert second.baseline_trials() == []


def test_a_worker_that_died_is_not_at_work(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as worker:
        assert studies.claim(worker, 1, config.space)
        assert studies.running_elsewhere()
    assert not studies.running_elsewhere()


def test_a_warm_start_whose_worker_died_before_its_numbers_were_suggested_is_not_lost(
    config: SearchConfig, shared_family: Family, tmp_path: Path
) -> None:
    text = shared_family.config(search=f", enqueue: [{json.dumps(config.space.example().to_dict())}]")
    warm = SearchConfig.parse(text, folder=shared_family.folder)
    studies = open_studies(tmp_path / "run", warm)
    assert studies.search.ask().params == {}  # Optuna hands a trial out first, and suggests its numbers then
    resumed = open_studies(tmp_path / "run", warm)
    with resumed.folder.sign_in() as worker:
        trial = resumed.claim(worker, 1, warm.space)
        assert trial
        assert trial.params == warm.warm_starts[0]


def test_the_first_complete_trial_of_the_same_numbers_is_a_twin(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as worker:
        params = dict.fromkeys(config.space.distributions(), 0.5)
        for state in (TrialState.FAIL, None, None):
            studies.search.enqueue_trial(params)
            trial = studies.claim(worker, 10, config.space)
            assert trial
            assert (studies.twin(trial) is None) is (trial.number < 2)
            studies.search.tell(trial, 0.5 if state is None else None, state=state)
        other = studies.claim(worker, 10, config.space)
        assert other
        assert studies.twin(other) is None
        studies.search.enqueue_trial(params)
        last = studies.claim(worker, 10, config.space)
        assert last
        twin = studies.twin(last)
        assert twin
        assert twin.number == 1


def test_trials_are_numbered_after_the_parents(config: SearchConfig, tmp_path: Path) -> None:
    studies = open_studies(tmp_path / "run", config)
    with studies.folder.sign_in() as worker:
        baseline, trial = studies.claim_baseline(worker), studies.claim(worker, 1, config.space)
        assert baseline
        assert trial
        assert (studies.number(baseline), baseline.user_attrs[KIND]) == (0, "parent")
        assert studies.number(trial) == 4


def test_a_warm_start_that_is_added_later_is_run(config: SearchConfig, shared_family: Family, tmp_path: Path) -> None:
    open_studies(tmp_path / "run", config)
    start = config.space.example()
    (shared_family.folder / "later.yaml").write_text(start.to_yaml(), encoding="utf-8")
    text = shared_family.config(search=", enqueue: [later.yaml]")
    later = SearchConfig.parse(text, folder=shared_family.folder)
    for _ in range(2):
        studies = open_studies(tmp_path / "run", later)
    assert [trial.state for trial in studies.search.trials] == [TrialState.WAITING]
    with studies.folder.sign_in() as worker:
        trial = studies.claim(worker, 1, later.space)
        assert trial
        assert later.space.recipe_at(trial.params) == start


def test_completions_of_trials_that_were_lost_go_with_the_next_start(config: SearchConfig, tmp_path: Path) -> None:
    studies, space = open_studies(tmp_path / "run", config), config.space
    folder = studies.folder
    with folder.sign_in() as living:
        running = studies.claim(living, 9, space)
        with folder.sign_in() as dying:
            scored, failed, lost = (studies.claim(dying, 9, space) for _ in range(3))
            parents = [studies.claim_baseline(dying) for _ in range(2)]
        claimed = [trial for trial in (running, scored, failed, lost, *parents) if trial]
        assert len(claimed) == 6
        for trial in claimed:
            folder.save_completions(f"trial-{studies.number(trial)}", [])
        folder.save_completions("report-0", [])
        studies.search.tell(claimed[1], 0.5)
        studies.search.tell(claimed[2], state=TrialState.FAIL)
        studies.baselines.tell(claimed[4], 0.5)
        open_studies(tmp_path / "run", config)
        kept = {f"trial-{studies.number(claimed[which])}.jsonl" for which in (0, 1, 4)} | {"report-0.jsonl"}
        assert {file.name for file in (folder.path / "completions").iterdir()} == kept


def test_a_database_that_is_none_is_named_with_the_remedy(config: SearchConfig, tmp_path: Path) -> None:
    folder = ResultsFolder.create(tmp_path / "run", config, config.identity)
    folder.database.write_bytes(b"nothing of the kind" * 1000)
    for action in (Studies.open, lambda folder: Studies.create(folder, config, [])):
        with (
            pytest.raises(SearchError, match=r"study\.db: .*not a database; restore it"),
            storage_errors(folder),
        ):
            action(folder)


def test_a_database_that_another_process_holds_is_not_to_be_replaced(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.database._BUSY_SECONDS", 0.05)
    studies = open_studies(tmp_path / "run", config)
    with closing(sqlite3.connect(studies.folder.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(SearchError, match=r"database is locked; another process holds it: run the same command"),
            storage_errors(studies.folder),
        ):
            studies.save_report(4, "pf")


def test_an_equal_average_of_one_model_is_no_baseline(shared_family: Family) -> None:
    config = SearchConfig.parse(
        shared_family.config(
            recipe="""
  merge_method: task_arithmetic
  base_model: base
  models:
    - {model: a, parameters: {weight: {low: 0, high: 1}}}
"""
        ),
        folder=shared_family.folder,
    )
    known = baselines(config)
    assert [baseline.kind for baseline in known] == ["parent", "parent"]
    assert known[0] == Baseline("parent", str(shared_family.a), Recipe.single(str(shared_family.a)))
