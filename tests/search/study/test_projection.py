"""Optuna's study of a search shows its records, and can be made anew from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.study.projection import Projection, quiet, write_study
from search.study.record import Scoring, TrialRecord

SPACE = {"density": FloatDistribution(0, 1), "method": CategoricalDistribution(["ties", "dare_ties"])}
PARAMETERS = {"density": 0.25, "method": "dare_ties"}
COMPLETE = Scoring("complete", "pf", 0.5, (0.5,), -1.5, {"total": 2.0}, worker="w", started=1_000_000.0)
PARENT = TrialRecord("parent", 0, "a", search=COMPLETE)
TRIALS = (
    TrialRecord("trial", 0, parameters=PARAMETERS, search=COMPLETE, sampler_notes={"cma:generation": 1}),
    TrialRecord("trial", 1, parameters=PARAMETERS, search=Scoring("failed", error="NaN")),
    TrialRecord("trial", 2, parameters=PARAMETERS, search=Scoring("pruned")),
    TrialRecord("trial", 3, parameters=PARAMETERS, search=Scoring("running")),
    TrialRecord("trial", 4, search=Scoring("running")),
    TrialRecord("trial", 5, parameters=PARAMETERS, search=Scoring(tries=("its worker died",))),
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


def plain(trials: list[FrozenTrial]) -> list[tuple[object, ...]]:
    return [(each.number, each.state, each.values, each.params, each.system_attrs) for each in trials]


def test_trials_have_the_numbers_of_their_records_and_reference_models_are_none() -> None:
    projection = Projection(SPACE)
    projection.update([PARENT, *TRIALS])
    trials = projection.study.trials
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "PRUNED", "RUNNING", "RUNNING", "RUNNING"]
    assert (trials[0].value, trials[0].params, trials[0].distributions) == (0.5, PARAMETERS, SPACE)
    assert trials[0].duration is not None
    assert trials[0].duration.total_seconds() == 2
    assert trials[0].system_attrs == {"cma:generation": 1}
    assert trials[1].user_attrs == {"error": "NaN"}
    assert trials[4].params == {}


def test_a_study_that_follows_its_records_is_one_that_is_made_of_them() -> None:
    follower = Projection(SPACE)
    follower.update(TRIALS[:2])
    follower.update(TRIALS)
    late = [
        *TRIALS[:3],
        replace(TRIALS[3], search=replace(COMPLETE, score=0.75, scores=(0.75,))),
        replace(TRIALS[4], parameters=PARAMETERS, sampler_notes={"note": [1]}),
        replace(TRIALS[5], search=Scoring("failed")),
    ]
    anew = Projection(SPACE)
    for projection in (follower, anew):
        projection.update([PARENT, *late])
    assert plain(follower.study.trials) == plain(anew.study.trials)
    assert follower.study.best_trial.number == 3


def test_a_failed_trial_that_is_run_again_is_shown_again() -> None:
    projection = Projection(SPACE)
    projection.update(TRIALS)
    again = replace(TRIALS[1], search=Scoring("running"))
    projection.update([TRIALS[0], again, *TRIALS[2:]])
    assert projection.study.trials[1].state is TrialState.RUNNING
    assert len(projection.study.trials) == 6


def test_a_score_on_the_report_split_changes_nothing() -> None:
    projection = Projection(SPACE)
    projection.update(TRIALS)
    before = projection.study.trials
    projection.update([replace(TRIALS[0], report=COMPLETE), *TRIALS[1:]])
    assert [trial._trial_id for trial in projection.study.trials] == [trial._trial_id for trial in before]


def test_several_objectives_are_several_values() -> None:
    projection = Projection(SPACE, objectives=2)
    projection.update([replace(TRIALS[0], search=replace(COMPLETE, score=0.4, scores=(0.5, 0.25)))])
    assert projection.study.trials[0].values == [0.5, 0.25]
    assert len(projection.study.directions) == 2


def test_the_one_trial_that_is_asked_for_is_drawn() -> None:
    projection = Projection(SPACE)
    projection.update(TRIALS)
    parameters, notes = projection.draw(4, RandomSampler(seed=0))
    assert parameters.keys() == SPACE.keys()
    assert notes == {}
    projection.update([*TRIALS[:4], replace(TRIALS[4], parameters=parameters), TRIALS[5]])
    assert [trial.params for trial in projection.study.trials[3:]] == [PARAMETERS, parameters, PARAMETERS]


@pytest.mark.parametrize("name", ["optuna.db", "50%?.db"])
def test_a_study_that_is_written_is_read_by_optuna_and_written_again(tmp_path: Path, name: str) -> None:
    for records in (TRIALS[:2], [PARENT, *TRIALS]):
        write_study(tmp_path / name, "mine", records, SPACE, 1)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / "read.db")
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path}/read.db")
    assert study.best_params == PARAMETERS
    assert [trial.number for trial in study.trials] == list(range(6))
    assert study.trials[0].user_attrs["log_likelihood"] == -1.5


def test_a_study_is_not_written_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database, and longer than the header of one" * 9)
    with pytest.raises(SearchError, match="notes: file is not a database"):
        write_study(tmp_path / "notes", "mine", TRIALS, SPACE, 1)
    with pytest.raises(SearchError, match="unable to open database file"):
        write_study(tmp_path / "nowhere" / "optuna.db", "mine", TRIALS, SPACE, 1)
    for folder in (tmp_path, Path(), Path("/")):
        with pytest.raises(SearchError, match="is a folder; give a file"):
            write_study(folder, "mine", TRIALS, SPACE, 1)
