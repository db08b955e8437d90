"""Searches in MLflow and Weights & Biases, with the real clients and without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import Leaderboard, SearchConfig, run_search
from search.callbacks.trackers import trackers
from search.run.trial import Bench
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.jobs import forget_reports
from tests.search.processes import running

# MLflow 3.17 uses a strategy of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    command: Command, shared_family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.callbacks.trackers.find_spec", lambda _: None)
    done = command("run", shared_family.write("tracked.yaml"), "--out", tmp_path / "run", "--track", "mlflow")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "merge-search: --track mlflow: is not installed; run pip install 'merge-search[mlflow]'"
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def unreported(one_trial: tuple[SearchConfig, Path]) -> tuple[SearchConfig, Path]:
    """Return a search that has had one trial without a tracker, and whose report split is still to be scored."""
    forget_reports(one_trial[1])
    return one_trial


@pytest.mark.slow
def test_mlflow_has_one_run_of_a_search_with_a_step_per_trial_whoever_ran_it(
    unreported: tuple[SearchConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    config, out = unreported
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "merges")
    monkeypatch.chdir(tmp_path)  # where it keeps files by default
    client = MlflowClient(uri)
    client.create_experiment("merges", artifact_location=(tmp_path / "artifacts").as_uri())
    run_search(config, out, trials=2, callbacks=trackers(["mlflow"]))
    words = ("run", config.source, "--out", out, "--trials", "6", "--track", "mlflow")
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    with running(places[0], *words) as first, running(places[1], *words) as second:
        assert (first.wait(), second.wait()) == (0, 0), first.errors + second.errors
    found = Leaderboard.open(out)
    assert len(found.trials) == 6

    experiment = client.get_experiment_by_name("merges")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    history = {it.step: it.value for it in client.get_metric_history(run.info.run_id, "search/score")}
    assert history == {it.number: it.search.score for it in found.trials}
    assert len(client.get_metric_history(run.info.run_id, "search/score")) == 6  # none twice
    weights = client.get_metric_history(run.info.run_id, "parameters/b weight")
    key = "models[1].parameters.weight"
    assert {it.step: it.value for it in weights} == {it.number: it.parameters[key] for it in found.trials}
    reported = {it.number: it.report.score for it in found.trials if it.report}
    assert {it.step: it.value for it in client.get_metric_history(run.info.run_id, "report/score")} == reported
    assert run.data.metrics["average/search/score"] == next(
        it.search.score for it in found.references if it.kind == "average"
    )
    assert run.data.params["recipe.merge_method"] == "ties"
    assert (run.info.run_name, run.info.status) == ("stopped", "FINISHED")
    assert run.data.tags["mlflow.note.content"] == found.verdict.sentence
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"config.yaml", "leaderboard.csv", "recipe.yaml"}


@pytest.mark.slow
def test_a_run_that_the_server_does_not_have_is_begun_anew_with_all_trials(
    unreported: tuple[SearchConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    config, out = unreported
    monkeypatch.chdir(tmp_path)
    for trials, uri in ((1, "sqlite:///one.db"), (2, "sqlite:///two.db")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        run_search(config, out, trials=trials, callbacks=trackers(["mlflow"]))
        client = MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("merge-search").experiment_id])
        assert [it.step for it in client.get_metric_history(run.info.run_id, "search/score")] == list(range(trials))


@pytest.mark.slow
def test_wandb_has_one_run_of_a_search_that_is_stopped_and_goes_on(
    unreported: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = unreported
    monkeypatch.setenv("WANDB_MODE", "offline")
    for trials in (2, 3):
        found = run_search(config, out, trials=trials, callbacks=trackers(["wandb"]))
    parts = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in parts}) == 1  # one id
    rows, summary = read_wandb(parts)
    scores = {row["trial"]: row["search/score"] for row in rows if "search/score" in row}
    assert scores == {it.number: it.search.score for it in found.trials}
    assert sum("search/score" in row for row in rows) == len(found.trials)
    assert {row["trial"]: row["proposed_by"] for row in rows if "proposed_by" in row} == {
        it.number: it.proposed_by for it in found.trials
    }
    assert summary["evidence"] == found.verdict.sentence
    assert summary["average/search/score"] == next(it.search.score for it in found.references if it.kind == "average")
    files = parts[-1].parent / "files"
    assert (files / "config.yaml").read_text() == Path(config.source).read_text()
    assert "merge_method: ties" in (files / "recipe.yaml").read_text()


@pytest.mark.slow
def test_workers_side_by_side_have_each_a_run_of_one_group_in_wandb(
    unreported: tuple[SearchConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = unreported
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("run", config.source, "--out", out, "--trials", "12", "--track", "wandb")
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    with running(places[0], *words, held_at=(Bench.score, 0)) as first:
        first.until_held()
        with running(places[1], *words) as second:
            second.until((out / "tracking" / "wandb-1").exists)
            first.release()
            assert (first.wait(), second.wait()) == (0, 0), first.errors + second.errors
    run_search(config, out, trials=13, callbacks=trackers(["wandb"]))
    parts = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in parts}) == 2
    rows, _ = read_wandb(parts)
    trials = sorted(row["trial"] for row in rows if "search/score" in row)
    assert trials == list(range(13))


def read_wandb(files: list[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the history in files of an offline run, and the summary."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for file in files:
        for data in _log_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("history"):
                rows.append({_key(it): json.loads(it.value_json) for it in record.history.item})
            if record.HasField("summary"):
                summary |= {_key(it): json.loads(it.value_json) for it in record.summary.update}
    return rows, summary


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _log_records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format, in which W&B keeps an offline run behind a header of seven bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little for a header
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield parts
            parts = b""
