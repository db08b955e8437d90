"""A results folder's store is whole whatever ends a process, says what is wrong with it, and does not slow down."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from search.errors import SearchError
from search.study.local_store import LocalStore
from search.study.record import Scoring, TrialRecord
from search.study.store import Proposal

PARENTS = (TrialRecord("parent", 0, "a"), TrialRecord("parent", 1, "b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".workers").mkdir()
    LocalStore.create(tmp_path, "run", {"recipe": 1}).close()
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(folder)) as found:
        yield found


class Deadly(LocalStore):
    """A store whose process is killed when it is about to write for the nth time."""

    left = 0

    def _save(self, record: TrialRecord) -> None:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        super()._save(record)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("writes", range(4))
def test_whoever_is_killed_while_a_search_is_begun_leaves_all_of_it_or_nothing(folder: Path, writes: int) -> None:
    starts = [Proposal({"density": 0.5}, "warm start")]
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        Deadly.left = writes
        Deadly(folder).begin(PARENTS, starts)
        os._exit(0)
    with closing(LocalStore(folder)) as store:
        assert len(store.changed()[0]) == (3 if writes == 3 else 0)
        store.begin(PARENTS, starts)
        assert [record.key for record in store.changed()[0]] == ["parent-0", "parent-1", "trial-0"]


def test_what_is_left_by_an_error_is_undone(store: LocalStore) -> None:
    store.begin(PARENTS)

    def fail() -> None:
        with store._writing():
            store._save(PARENTS[0].scored("search", Scoring("running")))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [record.search.state for record in store.changed()[0]] == ["waiting", "waiting"]
    with store.sign_in() as worker:
        assert store.claim(worker, 0)


def test_a_store_that_is_closed_is_one_file(folder: Path) -> None:
    with closing(LocalStore(folder)) as store:
        store.begin(PARENTS)
        assert (folder / "search.db-wal").exists()
    assert [file.name for file in folder.glob("search.db*")] == ["search.db"]


def test_a_store_knows_its_search(folder: Path) -> None:
    with closing(LocalStore.create(folder, "another name", {})) as store:
        assert (store.name, store.identity) == ("run", {"recipe": 1})
        store.keep_identity({"recipe": 2})
    with closing(LocalStore(folder, reading=True)) as store:
        assert store.identity == {"recipe": 2}


def test_a_file_that_is_no_database_is_named_with_the_remedy(folder: Path) -> None:
    (folder / "search.db").write_bytes(b"nothing of the kind" * 1000)
    for open_it in (LocalStore, lambda folder: LocalStore.create(folder, "run", {})):
        with pytest.raises(SearchError, match=r"search\.db: .*not a database; restore it"):
            open_it(folder)


def test_a_store_of_another_version_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "search.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(SearchError, match=r"search\.db: was made by another version .* run CONFIG --out .* --fresh`"):
        LocalStore(folder)


def of_version_7(folder: Path) -> Path:
    """Make the store in a folder one of version 7, which did not keep what stopped its search."""
    with closing(sqlite3.connect(folder / "search.db")) as database:
        database.executescript("ALTER TABLE search DROP COLUMN stopped; PRAGMA user_version = 7")
    return folder


def test_a_store_of_the_version_before_is_read_as_it_is(folder: Path) -> None:
    with closing(LocalStore(folder)) as store:
        store.begin(PARENTS)
    before = (of_version_7(folder) / "search.db").read_bytes()
    with closing(LocalStore(folder, reading=True)) as store:
        assert (store.name, store.identity, store.stopped_by) == ("run", {"recipe": 1}, None)
        assert [record.key for record in store.changed()[0]] == ["parent-0", "parent-1"]
    assert (folder / "search.db").read_bytes() == before


def test_a_worker_goes_on_in_a_store_of_the_version_before(folder: Path) -> None:
    with closing(LocalStore(folder)) as store:
        store.begin(PARENTS)
    of_version_7(folder)
    LocalStore.create(folder, "run", {}).close()
    for reading in (False, True):
        with closing(LocalStore(folder, reading)) as store:
            assert len(store.changed()[0]) == 2
            if not reading:
                store.keep_stop("time")
            assert store.stopped_by == "time"


def test_a_database_that_another_process_holds_is_not_to_be_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.database._BUSY_SECONDS", 0.05)
    with (
        closing(LocalStore(folder)) as store,
        closing(sqlite3.connect(folder / "search.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SearchError, match=r"database is locked; another process holds it: run the same command"):
            store.begin(PARENTS)


def test_the_database_is_asked_no_more_for_many_trials_than_for_few(store: LocalStore) -> None:
    def statements() -> int:
        asked: list[str] = []
        store._database.set_trace_callback(asked.append)
        store.changed()
        job = store.claim(worker, 1000)
        assert job
        store.keep(job, job.record.scored("search", replace(job.record.search, state="complete")))
        store._database.set_trace_callback(None)
        return len(asked)

    with store.sign_in() as worker:
        few = statements()
        for _ in range(9):
            statements()
        assert statements() == few


def test_reading_what_has_changed_takes_no_longer_where_there_is_more(store: LocalStore) -> None:
    """Counted in instructions of SQLite's virtual machine."""

    def instructions() -> int:
        executed: list[None] = []
        store._database.set_progress_handler(lambda: executed.append(None), 1)
        found, _ = store.changed(before)
        store._database.set_progress_handler(None, 1)
        assert len(found) == 1
        return len(executed)

    store.begin(PARENTS)
    counts = []
    with store.sign_in() as worker:
        for _ in range(60):
            _, before = store.changed()
            store.claim(worker, 1000)
            counts.append(instructions())
    assert counts[-1] < 1.1 * counts[2]  # the first two are the parents


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET parameters = '{\"density\": 0.'",
        "UPDATE records SET recipe = NULL",
        "UPDATE scorings SET seconds = 'zero'",
        'UPDATE search SET splits = \'{"search": {"part": []}}\'',
        "UPDATE search SET identity = '[1'",
        "INSERT INTO drafts VALUES (NULL, 'p', x'0102', 0, 0)",
        "INSERT INTO verdicts VALUES (x'01', 'pased', '')",
        "DELETE FROM search",
        "UPDATE records SET kind = 'trail' WHERE number = 1",
        "UPDATE scorings SET state = 'complet'",
        "UPDATE scorings SET state = NULL",
        "UPDATE scorings SET split = 'serch'",
    ],
)
def test_a_value_that_was_damaged_is_an_error_with_its_remedy(folder: Path, store: LocalStore, change: str) -> None:
    store.begin(PARENTS)
    with closing(sqlite3.connect(folder / "search.db")) as database, database:
        database.execute(change)

    def read() -> object:
        records = [(dict(it.parameters), dict(it.recipe), dict(it.search.seconds)) for it in store.changed()[0]]
        return records, store.splits, store.name, store.identity, store.share_drafts([]), store.verdict(b"\1")

    with pytest.raises(SearchError, match=r"search.db: holds a damaged value; restore it .*--fresh"):
        read()


def test_a_scoring_on_an_unknown_split_is_an_error_when_the_store_is_opened(folder: Path, store: LocalStore) -> None:
    store.begin(PARENTS)
    with closing(sqlite3.connect(folder / "search.db")) as database, database:
        database.execute("UPDATE scorings SET split = 'reprot' WHERE key = 'parent-0'")
    for reading in (False, True):
        with pytest.raises(SearchError, match=r"search.db: holds a damaged value; restore it .*--fresh"):
            LocalStore(folder, reading)


def test_text_that_is_no_text_is_an_error_of_one_short_line(folder: Path, store: LocalStore) -> None:
    with closing(sqlite3.connect(folder / "search.db")) as database, database:
        database.execute("UPDATE search SET identity = CAST(? AS TEXT)", (b"{" + b"\xff" * 5000,))
    with pytest.raises(SearchError, match="restore it") as caught:
        _ = store.identity
    assert len(str(caught.value).replace(str(folder), "")) < 200


def test_a_table_whose_name_is_no_text_is_an_error_with_its_remedy(folder: Path) -> None:
    file = folder / "search.db"
    file.write_bytes(file.read_bytes().replace(b"tabledraftsdrafts", b"table\xd0rafts\xd0rafts"))
    with pytest.raises(SearchError, match=r"search.db: .*restore it"):
        LocalStore(folder, reading=True)
