"""A search as a run of MLflow: a step per trial, the config as parameters, the verdict as the description."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search.board.leaderboard import Leaderboard
from search.callbacks.entries import Entries
from search.callbacks.tracker import PROJECT, Tracker

# MLflow refuses other characters in names, and longer names and values.
_ODD = re.compile(r"[^\w.\-:/ ]")
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000
# MLflow takes at most 100 parameters, or 1000 metrics, at once.
_AT_ONCE = 100


class MlflowTracker(Tracker):
    """Keeps a search in MLflow, where its environment variables say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    _client: MlflowClient
    _run: str

    def begin(self, run: str | None) -> str:
        """Continue a run, or begin one; see `Tracker`."""
        # By default a search would wait five minutes for a server that is gone.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self._client = MlflowClient()
        self._run = run if run and self._is_there(run) else self._new()
        self._client.update_run(self._run, RunStatus.to_string(RunStatus.RUNNING))
        self.search.say(f"mlflow: run {self._run} at {self._client.tracking_uri}")
        return self._run

    def add_trial(self, number: int, found: Entries) -> None:
        """Add a step. MLflow has only numbers there, so the proposer names one, whose value is the score."""
        score = found.get("search/score")
        proposed_by = found.get("proposed_by")
        if proposed_by and score is not None:
            found = found | {f"proposed_by/{proposed_by}": score}
        self._log(found, number)

    def add_reference(self, name: str, found: Entries) -> None:
        """Add a reference model's numbers, which have no step."""
        self._log({f"{name.replace('/', '.')}/{key}": value for key, value in found.items()}, 0)

    def end(self, leaderboard: Leaderboard, files: Mapping[str, str]) -> None:
        """Add the verdict and the files; the run is finished, or killed if something is left to do."""
        verdict = leaderboard.verdict
        for key, value in (("verdict", verdict.ruling), ("mlflow.note.content", verdict.sentence)):
            self._client.set_tag(self._run, key, value)
        for name, text in files.items():
            self._client.log_text(self._run, text, name)
        status = RunStatus.KILLED if leaderboard.unfinished else RunStatus.FINISHED
        self._client.set_terminated(self._run, RunStatus.to_string(status))

    def _is_there(self, run: str) -> bool:
        """Whether this server has the run, which may be from another server."""
        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _new(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run: str = self._client.create_run(experiment, run_name=self.search.folder.name).info.run_id
        params = [Param(_fitting(key), value) for key, value in _flat(self.settings)]
        tags = [RunTag("results", str(self.search.folder.path.resolve()))]
        for begin in range(0, len(params), _AT_ONCE):
            self._client.log_batch(run, params=params[begin : begin + _AT_ONCE], tags=tags)
        return run

    def _log(self, found: Entries, step: int) -> None:
        now = int(time.time() * 1000)
        numbers = {_fitting(key): value for key, value in found.items() if not isinstance(value, str)}
        metrics = [Metric(key, value, now, step) for key, value in numbers.items()]
        for begin in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + _AT_ONCE])


def _fitting(name: str) -> str:
    return _ODD.sub("_", name)[:_LONGEST_NAME]


def _flat(node: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Yield the values of a config with the path of each key; lists stay whole."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, default=str)
        yield key, text[:_LONGEST_VALUE]
