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
from search.study import OUTCOMES, RECIPE, Studies, quiet
from tests.search.conftest import Command as Runner
from tests.search.conftest import fingerprint
from tests.search.family import Family
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


def add_trial(studies: Studies, config: SearchConfig) -> int:
    with studies.folder.sign_in() as worker:
        trial = studies.claim(worker, 1000, config.space)
        assert trial
        trial.set_user_attr(RECIPE, config.space.recipe_at(trial.params).to_dict())
        trial.set_user_attr(OUTCOMES, "p" * 8)
        studies.search.tell(trial, 1.0)
        return studies.number(trial)


def read(command: Command) -> str:
    assert command.wait() == 0, command.errors
    return command.output


def test_an_archive_can_be_read(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o555)
    with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
        assert "trial 6" in read(command)
    assert not list(folder.glob("study.db-*"))


def test_what_a_running_search_has_committed_is_seen(folder: Path, tmp_path: Path, config: SearchConfig) -> None:
    with quiet(), closing(Studies.create(ResultsFolder.open(folder), config, [])) as studies:
        number = add_trial(studies, config)
        assert (folder / "study.db-wal").stat().st_size
        folder.chmod(0o555)
        with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
            assert f"trial {number}" in read(command)
        folder.chmod(0o755)


def test_what_cannot_be_read_without_writing_is_told_with_the_remedy(
    folder: Path, tmp_path: Path, config: SearchConfig
) -> None:
    with quiet(), closing(Studies.create(ResultsFolder.open(folder), config, [])) as studies:
        add_trial(studies, config)
        log = (folder / "study.db-wal").read_bytes()
    (folder / "study.db-wal").write_bytes(log)  # of a search that was killed, copied without study.db-shm
    folder.chmod(0o555)
    with running(tmp_path, "leaderboard", folder, heed_permissions=True) as command:
        assert command.wait() == 2, command.output
    assert "study.db: unable to open database file; make the folder readable and writable for you, or copy it" in (
        command.errors
    )


@pytest.mark.parametrize("name", ["study.db", "config.yaml"])
def test_what_is_lost_is_named_and_reading_makes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    was = fingerprint(folder)
    with running(tmp_path, "export", folder, "--to", tmp_path / "out") as command:
        assert command.wait() == 2
    assert re.fullmatch(rf"merge-search: .*{name}: [^\n]*\n", command.errors)
    assert fingerprint(folder) == was


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_broken_database_is_read_without_a_trace(folder: Path, tmp_path: Path, part: float) -> None:
    whole = (folder / "study.db").read_bytes()
    (folder / "study.db").write_bytes(whole[: int(len(whole) * part)])
    was = fingerprint(folder)
    with running(tmp_path, "leaderboard", folder) as command:
        assert command.wait() == 2
    assert "study.db: " in command.errors
    assert "restore it from a copy, or begin anew with --fresh" in command.errors
    assert fingerprint(folder) == was


@pytest.mark.parametrize("left", ["nothing", "an empty file", "a database without studies"])
def test_a_search_that_lost_its_database_is_not_begun_again_over_what_it_left(
    folder: Path, shared_family: Family, command: Runner, left: str
) -> None:
    (folder / "study.db").unlink()
    if left == "an empty file":
        (folder / "study.db").touch()
    elif left == "a database without studies":
        with closing(sqlite3.connect(folder / "study.db")) as database:
            database.execute("create table other (id int)")
    completions = fingerprint(folder / "completions")
    config = shared_family.write("finished.yaml")
    refused = command("run", config, "--out", folder)
    assert refused.exit_code == 2
    *notes, message = refused.stderr.splitlines()
    assert all("works without bubblewrap" in note for note in notes)  # not every machine has one
    assert re.fullmatch(r"merge-search: .*study\.db: (is missing|is empty|holds no study 'finished'); .*", message)
    assert fingerprint(folder / "completions") == completions
    anew = shared_family.write("anew.yaml", evaluation=", report_fraction: 0")
    assert command("run", anew, "--out", folder, "--fresh", "--trials", "1").exit_code == 0


@pytest.mark.parametrize("state", ["no database", "an empty one", "one without tables", "one without its second study"])
def test_a_search_that_begins_has_a_leaderboard_without_trials(
    config: SearchConfig, tmp_path: Path, command: Runner, state: str
) -> None:
    folder = ResultsFolder.create(tmp_path / "begins", config, config.identity)
    if state == "an empty one":
        folder.database.touch()
    elif state == "one without tables":
        with closing(sqlite3.connect(folder.database)) as database:
            database.execute("create table other (id int)")
    elif state == "one without its second study":
        with quiet(), closing(Studies.create(folder, config, [])):
            pass
        with closing(sqlite3.connect(folder.database)) as database, database:
            database.execute("delete from studies where study_name like '%baselines'")
    assert command("leaderboard", folder.path).output == "begins: no trial is over yet\n"
    assert json.loads(command("leaderboard", folder.path, "--json").output)["rows"] == []
    for words in (
        ["export", folder.path, "--to", tmp_path / "out"],
        ["compare", f"{folder.path}:0", f"{folder.path}:1"],
    ):
        refused = command(*words)
        assert refused.exit_code == 2
        assert re.fullmatch(r"merge-search: .*no trial (has been scored|is over) yet.*\n", refused.stderr)


@pytest.mark.parametrize("harm", ["garbage", "a folder", "another program's", "forbidden", "its end is lost"])
@pytest.mark.parametrize("verb", ["leaderboard", "export", "compare", "run"])
def test_a_database_that_cannot_be_opened_is_one_line(
    folder: Path, shared_family: Family, tmp_path: Path, command: Runner, harm: str, verb: str
) -> None:
    file = folder / "study.db"
    whole = file.read_bytes()
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm == "another program's":
        file.unlink()
        with closing(sqlite3.connect(file)) as database:
            database.execute("create table studies (study_name text, version int)")
            database.execute("insert into studies values ('finished', 3), ('finished/baselines', 3)")
            database.commit()
    elif harm == "forbidden":
        file.chmod(0)
    else:
        file.write_bytes(b"garbage" * 999 if harm == "garbage" else whole[: len(whole) // 3])
    words = {
        "leaderboard": [folder],
        "export": [folder, "--to", tmp_path / "out"],
        "compare": [f"{folder}:0", f"{folder}:1"],
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
    (folder / "study.db").unlink()
    with closing(sqlite3.connect(folder / "study.db")) as worker:
        worker.execute("PRAGMA journal_mode=WAL")
        worker.execute("create table other (id int)")
        assert (folder / "study.db-wal").stat().st_size
        read = command("leaderboard", folder)
        assert read.exit_code == 2
        assert "study.db: holds no study 'finished'; restore it" in read.stderr
        assert worker.execute("select name from sqlite_master").fetchall() == [("other",)]
