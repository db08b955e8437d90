"""`merge-search list`: where the searches below a folder stand."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from search import SearchConfig, run_search
from search.board.leaderboard import Leaderboard
from search.errors import SearchError
from search.overview import SearchOverview, overviews
from search.progress import Progress
from search.results import ResultsFolder
from search.study.local_store import LocalStore
from tests.search.conftest import Command, fingerprint
from tests.search.family import Family
from tests.search.told import Stopped


def planned(out: Path, trials: int) -> None:
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("UPDATE search SET planned = ?", (trials,))


def test_a_line_says_what_the_leaderboard_says(command: Command, finished: Path) -> None:
    before = fingerprint(finished)
    (line,) = json.loads(command("list", finished.parent, "--json").stdout)
    board = json.loads(command("leaderboard", finished, "--json").stdout)
    best = next(row for row in board["rows"] if row["trial"] == board["best"])
    keys = ("search_score", "report_score", "report_interval")
    assert {key: line[key] for key in keys} == {key: best[key] for key in keys}
    assert (line["path"], line["best"], line["verdict"]) == (str(finished), board["best"], board["verdict"])
    assert (line["done"], line["planned"], line["state"], line["workers"]) == (3, 3, "ended", 0)
    assert line["why"] == "all trials are over"
    records = Leaderboard.open(finished).records
    begun = [it.started for record in records for it in (record.search, record.report) if it and it.started]
    assert 0 <= datetime.fromisoformat(line["active"]).timestamp() - int(max(begun)) < 600
    shown = command("list", finished.parent).stdout
    assert str(finished) in shown
    assert f"{best['search_score']:.1%}" in shown
    assert fingerprint(finished) == before


def test_a_search_ends_by_its_rules_or_was_stopped(one_trial: tuple[object, Path]) -> None:
    _, out = one_trial
    planned(out, 3)
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == ("stopped", "2 trials are left")
    config = out / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("search: {", "search: {stop: {target: 0.001}, "), encoding="utf-8")
    best = SearchOverview.of(out).best
    assert best
    assert best.record.search.score
    assert SearchOverview.of(out).why.startswith("target reached at trial 0")
    config.write_text("{", encoding="utf-8")
    assert SearchOverview.of(out).why == "2 trials are left"
    planned(out, 1)
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("UPDATE scorings SET state = 'waiting' WHERE split = 'report' AND key = 'parent-0'")
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == (
        "stopped",
        "1 model is left to be scored on the report split",
    )


def test_a_search_that_ran_out_of_time_has_ended(one_trial: tuple[SearchConfig, Path], command: Command) -> None:
    config, out = one_trial
    planned(out, 3)
    run_search(config, out, timeout=0)
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == ("ended", "time is over")
    assert re.search(r"1/3 .* ended: time is over$", command("list", out).stdout, re.MULTILINE)
    run_search(config, out)
    assert SearchOverview.of(out).why == "all trials are over"


class Signalled(Progress):
    """Sends signals to the process, or raises an error, when trials begin."""

    def __init__(self, *what: signal.Signals | Exception) -> None:
        self._what = what

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:  # noqa: ARG002
        for each in self._what if what == "search" else ():
            if isinstance(each, Exception):
                raise each
            signal.raise_signal(each)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ((signal.SIGINT,), "by Ctrl-C, 1 trial is left"),
        ((signal.SIGINT, signal.SIGINT), "by Ctrl-C, 1 trial is left"),
        ((signal.SIGTERM,), "by SIGTERM, 1 trial is left"),
        ((SearchError("the machine fails"),), "by an error, 1 trial is left"),
        ((), "all trials are over"),
    ],
)
def test_what_stopped_a_search_is_told(
    one_trial: tuple[SearchConfig, Path], what: tuple[signal.Signals | Exception, ...], why: str
) -> None:
    config, out = one_trial
    planned(out, 2)
    with contextlib.suppress(KeyboardInterrupt, SearchError):
        run_search(config, out, trials=2, progress=Signalled(*what))
    found = SearchOverview.of(out)
    assert (found.state, found.why) == ("stopped" if what else "ended", why)


class AnotherStops(Progress):
    """Another worker is stopped whenever a trial ends."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def scored(self, *_: object) -> None:
        with ResultsFolder.open(self._out).working() as store:
            store.keep_stop("Ctrl-C")


def test_a_search_that_a_worker_finishes_has_ended_although_another_was_stopped(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    planned(out, 2)
    run_search(config, out, trials=2, progress=AnotherStops(out))
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == ("ended", "all trials are over")


class Killed(Progress):
    """Ends the worker before it scores a model on the report split, and says nothing of it, like a kill."""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:  # noqa: ARG002
        if what == "report split":
            raise Stopped


def test_a_search_that_is_killed_before_the_report_split_has_not_ended(shared_family: Family, tmp_path: Path) -> None:
    config, out = SearchConfig.load(shared_family.write("killed.yaml")), tmp_path / "killed"
    with pytest.raises(Stopped):
        run_search(config, out, trials=1, progress=Killed())
    found = SearchOverview.of(out)
    assert (found.state, found.why) == ("stopped", "5 models are left to be scored on the report split")
    run_search(config, out, trials=1)
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == ("ended", "all trials are over")


def test_a_search_that_was_to_have_more_trials_than_were_planned_was_stopped(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    run_search(config, out, trials=2, progress=Signalled(signal.SIGINT))
    assert (SearchOverview.of(out).state, SearchOverview.of(out).why) == ("stopped", "by Ctrl-C")


def test_a_search_runs_while_a_worker_is_at_work(one_trial: tuple[object, Path], command: Command) -> None:
    _, out = one_trial
    with closing(LocalStore(out)) as store, store.sign_in():
        found = SearchOverview.of(out)
        assert (found.state, found.workers, found.done) == ("running", 1, 1)
        with store.sign_in():
            assert "running, 2 workers" in command("list", out).stdout
    assert SearchOverview.of(out).state == "ended"


def test_a_folder_that_cannot_be_read_is_a_line_that_says_why(
    finished: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    for name in ("whole", "group/lost", "group/junk", "other", ".hidden"):
        shutil.copytree(finished, folder / name)
    (folder / "group/lost/search.db").unlink()
    (folder / "group/junk/search.db").write_text("junk")
    with closing(sqlite3.connect(folder / "other/search.db")) as database:
        database.execute("PRAGMA user_version = 999")
    (folder / "old").mkdir()
    (folder / "old/search.json").write_text("{}")
    (folder / "new").mkdir()
    (folder / "new/.lock").touch()
    (folder / "linked").symlink_to(finished)
    (folder / "loop").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    found = {str(each.path.relative_to(folder)): each for each in overviews(folder)}
    assert {name: each.state for name, each in found.items()} == {
        "whole": "ended", "linked": "ended", "new": "starting", "group/lost": "unreadable", "group/junk": "unreadable",
        "other": "unreadable", "old": "unreadable",
    }  # fmt: skip
    for name in ("group/lost", "group/junk", "other", "old"):
        with pytest.raises(SearchError) as caught:
            ResultsFolder.open(folder / name)
        assert str(caught.value).endswith(found[name].why)
        assert found[name].why
    monkeypatch.chdir(tmp_path)
    shown = command("list")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in found)
    assert "unreadable: search.db: is missing" in shown.stdout
    assert ".hidden" not in shown.stdout


def test_without_a_search_the_command_that_makes_one_is_told(tmp_path: Path, command: Command) -> None:
    done = command("list", tmp_path)
    assert (done.exit_code, "holds no search; `merge-search run CONFIG" in done.stdout) == (0, True)
    assert command("list", tmp_path, "--json").stdout == "[]\n"
    done = command("list", tmp_path / "nowhere")
    assert (done.exit_code, "nowhere: no such folder" in done.stderr) == (2, True)
