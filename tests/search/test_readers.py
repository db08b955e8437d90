"""Who may only read a results folder sees all that was committed, or is told what to do."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from search import SearchConfig
from search.results import ResultsFolder
from search.study.local_store import LocalStore
from tests.search.conftest import Command as Runner
from tests.search.conftest import fingerprint
from tests.search.family import NO_REPORT, Family
from tests.search.jobs import claim, finish
from tests.search.processes import Command, running


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of a finished search; may be write-protected."""
    shutil.copytree(finished, tmp_path / "run")
    yield tmp_path / "run"
    (tmp_path / "run").chmod(0o755)


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.load(shared_family.write("finished.yaml"))


def add_trial(store: LocalStore, config: SearchConfig) -> str:
    """Add a trial, and return its name."""
    with store.sign_in() as worker:
        job = claim(store, worker, 1000, config)
        finish(store, job, config)
    return f"trial {job.record.number}"


def read(command: Command) -> str:
    assert command.wait() == 0, command.errors
    return command.output


def test_an_archive_can_be_read(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o555)
    with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
        assert "trial 2" in read(command)
    assert not list(folder.glob("search.db-*"))


def test_what_a_running_search_has_committed_is_seen(folder: Path, tmp_path: Path, config: SearchConfig) -> None:
    with closing(LocalStore(folder)) as store:
        name = add_trial(store, config)
        assert (folder / "search.db-wal").stat().st_size
        folder.chmod(0o555)
        with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
            assert name in read(command)
        folder.chmod(0o755)


def test_what_cannot_be_read_without_writing_is_told_with_the_remedy(
    folder: Path, tmp_path: Path, config: SearchConfig
) -> None:
    with closing(LocalStore(folder)) as store:
        add_trial(store, config)
        log = (folder / "search.db-wal").read_bytes()
    (folder / "search.db-wal").write_bytes(log)  # of a search that was killed, copied without search.db-shm
    folder.chmod(0o555)
    with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
        assert command.wait() == 2, command.output
    assert "search.db: unable to open database file; make the folder readable and writable for you, or copy it" in (
        command.errors
    )


@pytest.mark.parametrize("name", ["search.db", "config.yaml"])
def test_what_is_lost_is_named_and_reading_makes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    was = fingerprint(folder)
    with running(tmp_path, "export", folder, "--anyway", "--to", tmp_path / "out") as command:
        assert command.wait() == 2
    assert re.fullmatch(rf"merge-search: .*{name}: [^\n]*\n", command.errors)
    assert fingerprint(folder) == was


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_broken_database_is_read_without_a_trace(folder: Path, tmp_path: Path, part: float) -> None:
    whole = (folder / "search.db").read_bytes()
    (folder / "search.db").write_bytes(whole[: int(len(whole) * part)])
    was = fingerprint(folder)
    with running(tmp_path, "leaderboard", folder) as command:
        assert command.wait() == 2
    assert "search.db: " in command.errors
    again = f"`merge-search run CONFIG --out {folder} --fresh`"
    assert f"restore it from a copy, or start over with {again}" in command.errors
    assert fingerprint(folder) == was


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize(
    "left",
    ["a database without studies", "nothing", "an empty file"],
)
def test_a_search_that_lost_its_database_is_not_begun_again_over_what_it_left(
    folder: Path, shared_family: Family, command: Runner, left: str
) -> None:
    (folder / "search.db").unlink()
    if left == "an empty file":
        (folder / "search.db").touch()
    elif left == "a database without studies":
        with closing(sqlite3.connect(folder / "search.db")) as database:
            database.execute("create table other (id int)")
    completions = fingerprint(folder / "completions")
    config = shared_family.write("finished.yaml")
    refused = command("run", config, "--out", folder)
    assert refused.exit_code == 2
    *notes, message = refused.stderr.splitlines()
    assert all("works without bubblewrap" in note for note in notes)  # not every machine has one
    assert re.fullmatch(r"merge-search: .*search\.db: (is missing|is empty|holds no search); .*", message)
    assert fingerprint(folder / "completions") == completions
    anew = shared_family.write("anew.yaml", evaluation=NO_REPORT)
    assert command("run", anew, "--out", folder, "--fresh", "--trials", "1").exit_code == 0


@pytest.mark.parametrize("state", ["no database", "an empty one", "one without tables", "one without records"])
def test_a_search_that_begins_has_a_leaderboard_without_trials(
    config: SearchConfig, tmp_path: Path, command: Runner, state: str
) -> None:
    folder = ResultsFolder.create(tmp_path / "begins", config, config.identity)
    file = folder.path / "search.db"
    if state != "one without records":
        file.unlink()
    if state == "an empty one":
        file.touch()
    elif state == "one without tables":
        with closing(sqlite3.connect(file)) as database:
            database.execute("create table other (id int)")
    assert command("leaderboard", folder.path).output == "begins: no trial is over yet\n"
    assert json.loads(command("leaderboard", folder.path, "--json").output)["rows"] == []
    for words in (
        ["export", folder.path, "--anyway", "--to", tmp_path / "out"],
        ["compare", f"{folder.path}:a", f"{folder.path}:b"],
    ):
        refused = command(*words)
        assert refused.exit_code == 2
        assert re.fullmatch(r"merge-search: .*no trial (has been scored|is over) yet.*\n", refused.stderr)


@pytest.mark.parametrize("harm", ["garbage", "a folder", "another program's", "forbidden", "its end is lost"])
@pytest.mark.parametrize("verb", ["leaderboard", "export", "compare", "run"])
def test_a_database_that_cannot_be_opened_is_one_line(
    folder: Path, shared_family: Family, tmp_path: Path, command: Runner, harm: str, verb: str
) -> None:
    file = folder / "search.db"
    whole = file.read_bytes()
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm == "another program's":
        file.unlink()
        with closing(sqlite3.connect(file)) as database:
            database.execute("create table search (study_name text, version int)")
            database.execute("insert into search values ('finished', 3)")
            database.commit()
    elif harm == "forbidden":
        file.chmod(0)
    else:
        file.write_bytes(b"garbage" * 999 if harm == "garbage" else whole[: len(whole) // 3])
    words = {
        "leaderboard": [folder],
        "export": [folder, "--anyway", "--to", tmp_path / "out"],
        "compare": [f"{folder}:a", f"{folder}:b"],
        "run": [shared_family.write("finished.yaml"), "--out", folder],
    }[verb]
    if harm == "forbidden":
        with running(tmp_path, verb, *words, heed_permissions=True) as process:
            assert process.wait() == 2, process.errors
            errors = process.errors
    else:
        found = command(verb, *words)
        assert found.exit_code == 2, found.exception
        errors = found.stderr
    assert re.fullmatch(rf"merge-search: [^\n]*{re.escape(str(file))}: [^\n]*; [^\n]*", errors.splitlines()[-1])
    assert "Traceback" not in errors


def test_a_reader_makes_no_tables_where_a_search_is_about_to(folder: Path, command: Runner) -> None:
    # A worker whose database has no tables yet was told that they exist already, if a reader made them meanwhile.
    (folder / "search.db").unlink()
    with closing(sqlite3.connect(folder / "search.db")) as worker:
        worker.execute("PRAGMA journal_mode=WAL")
        worker.execute("create table other (id int)")
        assert (folder / "search.db-wal").stat().st_size
        read = command("leaderboard", folder)
        assert read.exit_code == 2
        assert "search.db: holds no search; restore it" in read.stderr
        assert worker.execute("select name from sqlite_master").fetchall() == [("other",)]
