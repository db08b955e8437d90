"""The dashboard: optuna-dashboard, as its own server answers, on the study of a search."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from search import SearchConfig
from search.board.leaderboard import Leaderboard
from search.serving.dashboard import Dashboard, serve
from search.study.local_store import LocalStore
from tests.search.conftest import Command, fingerprint
from tests.search.jobs import claim, finish
from tests.search.processes import running


@contextmanager
def shown(application: Dashboard) -> Iterator[str]:
    """Serve a dashboard; yield the address."""
    with serve(application, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def asked(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.loads(answer.read())


def study(address: str) -> Any:
    (summary,) = asked(f"{address}/api/studies")["study_summaries"]
    return asked(f"{address}/api/studies/{summary['study_id']}?after=0")


def test_it_shows_the_trials_with_notes_and_the_name_of_what_is_scored(finished: Path) -> None:
    before, board = fingerprint(finished), Leaderboard.open(finished)
    with shown(Dashboard(finished, print)) as address:
        found = study(address)
        with urllib.request.urlopen(f"{address}/dashboard/") as page:
            assert b"<html" in page.read()
    assert (found["name"], found["objective_names"]) == ("finished", ["pass@1 on the search split"])
    values = {trial["number"]: trial["values"] for trial in found["trials"]}
    assert values == {record.number: list(record.search.scores) for record in board.trials}
    assert board.verdict.sentence in found["note"]["body"]
    assert all(f"| {record.name} | {record.search.score:.1%} |" in found["note"]["body"] for record in board.references)
    for trial in found["trials"]:
        assert "merge_method: ties" in trial["note"]["body"]
    assert fingerprint(finished) == before


def test_each_answer_is_of_the_search_as_it_is_then(one_trial: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    config, out = one_trial
    told: list[str] = []
    application = Dashboard(out, told.append)

    def states(address: str) -> list[str]:
        asked(f"{address}/api/studies")  # what is asked does not matter; the dashboard keeps an answer for two seconds
        return [trial.state.name for trial in application.study.trials]

    with shown(application) as address:
        with closing(LocalStore(out)) as store, store.sign_in() as worker:
            assert states(address) == ["COMPLETE"]
            job = claim(store, worker, 2, config)
            assert states(address) == ["COMPLETE", "RUNNING"]
            finish(store, job, config)
            finish(store, claim(store, worker, 3, config), config, "failed", "no such luck")
            assert states(address) == ["COMPLETE", "COMPLETE", "FAIL"]
            assert [trial.get("values") for trial in study(address)["trials"]][1:] == [[1.0], None]
            assert "no such luck" in study(address)["trials"][2]["note"]["body"]
        assert told == []
        shutil.move(out, tmp_path / "moved")
        assert states(address) == states(address) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert len(told) == 1
    assert told[0].startswith(f"the search is shown as it was last: {out}: ")


@pytest.mark.slow
def test_the_command_tells_the_address_and_ends_with_ctrl_c(finished: Path, tmp_path: Path) -> None:
    with running(tmp_path, "dashboard", finished, "--port", "0") as command:
        command.until(lambda: "Ctrl-C ends it" in command.output)
        found = re.search(r"http://localhost:\d+", command.output)
        assert found
        assert study(found.group())["name"] == "finished"
        command.send(signal.SIGINT)
        assert command.wait() == 130
    assert "Traceback" not in command.errors


def test_what_is_missing_is_told(
    finished: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lambda *_: [], 0) as server:
        done = command("dashboard", finished, "--port", str(server.server_port))
    assert (done.exit_code, f"--port {server.server_port}: Address already in use; give" in done.stderr) == (2, True)
    assert "holds no search" in command("dashboard", tmp_path).stderr
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    done = command("dashboard", finished)
    assert (done.exit_code, "pip install 'merge-search[dashboard]'" in done.stderr) == (2, True)
