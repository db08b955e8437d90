"""The store of a results folder: one SQLite file, and one lock file per live worker.

    search.db    search: the search's name, identity, splits, planned trials and confirmation; looks: those at the
                 report split and at rounds of the confirmation, in order; records and scorings: one row per model, and
                 per model and split; drafts; verdicts; workers: each worker's place and sandbox

Guarantees: a worker is at work exactly as long as its process holds its lock file, so that a kill -9 shows at once. A
store opened for reading writes nothing. A failure to read or write raises SearchError with the remedy.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, get_args

from merging.caches import sweep
from search.errors import SearchError, restore, start_over
from search.locks import held, is_held
from search.study.confirmation import Confirmation
from search.study.database import connect, damage, database_errors
from search.study.looks import Look, Looks
from search.study.outcomes import CODES, Split
from search.study.record import Kind, SplitName, State, TrialRecord
from search.study.rows import RECORD_COLUMNS, SCORING_COLUMNS, SPLITS, encoded, record_of
from search.study.store import Stop, Workplace
from search.study.stores import FolderStore

if TYPE_CHECKING:
    from evaluation import Draft, Verdict
    from search.identity import Identity

_WORKERS: Final = ".workers"
_VERSION = 8
# A store of this version has no column `stopped`.
_WITHOUT_STOP = 7
_SCHEMA = """
CREATE TABLE search (name TEXT, identity TEXT, splits TEXT, planned INTEGER, confirmation TEXT, stopped TEXT);
CREATE TABLE looks (place INTEGER PRIMARY KEY, due INTEGER, alpha REAL, finalists TEXT, rounds INTEGER);
CREATE TABLE records (
    key TEXT PRIMARY KEY, kind TEXT, number INTEGER, name TEXT, parameters TEXT, recipe TEXT, same_as INTEGER,
    end_tokens TEXT, weights_digest TEXT, proposed_by TEXT, seen INTEGER, sampler_notes TEXT, revision INTEGER
);
CREATE INDEX records_by_kind ON records (kind);
CREATE INDEX records_by_revision ON records (revision);
CREATE TABLE scorings (
    key TEXT REFERENCES records, split TEXT, state TEXT, outcomes TEXT, score REAL, scores TEXT, log_likelihood REAL,
    seconds TEXT, tokens INTEGER, guessed INTEGER, accepted INTEGER, worker TEXT, started REAL, error TEXT, tries TEXT,
    deaths INTEGER, by_seed TEXT,
    PRIMARY KEY (key, split)
);
CREATE INDEX scorings_by_state ON scorings (split, state);
CREATE TABLE drafts (place INTEGER PRIMARY KEY, prompt TEXT, tokens BLOB, parent INTEGER, passed INTEGER);
CREATE INDEX drafts_by_prompt ON drafts (prompt, parent, place);
CREATE TABLE verdicts (key BLOB PRIMARY KEY, status TEXT, detail TEXT) WITHOUT ROWID;
CREATE TABLE workers (
    name TEXT PRIMARY KEY, host TEXT, devices TEXT, hardware TEXT, software TEXT, started REAL, active TEXT,
    missing TEXT
);
"""
_STOPS: Mapping[str | None, Stop | None] = {None: None, **{stop: stop for stop in get_args(Stop)}}
_TABLES = {"search", "looks", "records", "scorings", "drafts", "verdicts", "workers"}
# Every record has a scoring on the search split, but with an inner join SQLite could begin with all of these, whatever
# the condition, and reading the changes would take as long as reading everything.
_SELECT = f"""
SELECT {", ".join(f"records.{name}" for name in RECORD_COLUMNS)},
       {", ".join(f"{split}.{name}" for split in SPLITS for name in SCORING_COLUMNS)}
FROM records
LEFT JOIN scorings AS search ON search.key = records.key AND search.split = 'search'
LEFT JOIN scorings AS report ON report.key = records.key AND report.split = 'report'
LEFT JOIN scorings AS confirm ON confirm.key = records.key AND confirm.split = 'confirm'
WHERE {{}}
"""
# The gaps between the splits' names, which the index has at once; NOT IN would read all of it.
_GAPS = zip(["", *sorted(SPLITS)], [*sorted(SPLITS), "\U0010ffff"], strict=True)
_OF_NO_SPLIT = " UNION ALL ".join(
    f"SELECT split FROM scorings WHERE split > '{low}' AND split < '{high}'" for low, high in _GAPS
)
# How many completions are kept per prompt, besides those of the parents and the first that passed: no model uses more.
_DRAFTS_PER_PROMPT = 16
_FORGET = f"""
DELETE FROM drafts WHERE prompt = ?1 AND NOT parent AND place <= (
    SELECT place FROM drafts WHERE prompt = ?1 AND NOT parent ORDER BY place DESC LIMIT 1 OFFSET {_DRAFTS_PER_PROMPT}
) AND place <> coalesce((SELECT min(place) FROM drafts WHERE prompt = ?1 AND passed), 0)
"""


class LocalStore(FolderStore):
    """A store in a folder. It must be closed before the folder is copied."""

    FILE: ClassVar[str] = "search.db"

    def __init__(self, folder: Path, reading: bool = False) -> None:
        self.file = (folder / self.FILE).resolve()
        self._workers = folder / _WORKERS
        self._revision = 0
        with database_errors(self.file):
            self._database = connect(self.file, reading)
            try:
                self._check(reading)
                if not reading:
                    self._workers.mkdir(exist_ok=True)  # a copy may lack it: git and zip leave out empty folders
            except BaseException:
                self._database.close()
                raise

    @classmethod
    def create(cls, folder: Path, name: str, identity: Mapping[str, object]) -> Self:
        """Create the store of a search, or open the existing one. Only one process at a time may do this."""
        file = (folder / cls.FILE).resolve()
        with database_errors(file), contextlib.closing(connect(file)) as database:
            if not _tables(database):
                database.executescript(f"BEGIN IMMEDIATE; PRAGMA user_version = {_VERSION}; {_SCHEMA}")
                database.execute("INSERT INTO search VALUES (?, ?, '{}', 0, NULL, NULL)", (name, json.dumps(identity)))
                database.execute("COMMIT")
        sweep(folder / _WORKERS, "*")
        return cls(folder)

    @classmethod
    def absence(cls, folder: Path) -> str:
        """Return why a folder holds no search yet; "" if it holds one."""
        file = (folder / cls.FILE).resolve()
        if not file.exists():
            return "is missing"
        if not file.is_file():
            raise SearchError(f"{file}: is not a file; {restore(folder)}")
        if not file.stat().st_size:
            return "is empty"
        with database_errors(file), contextlib.closing(connect(file, reading=True)) as database:
            return "holds no search" if _TABLES - _tables(database) else ""

    @classmethod
    def is_busy(cls, folder: Path) -> bool:
        """Whether a worker is at work in a folder."""
        return bool(_living(folder / _WORKERS))

    @property
    def name(self) -> str:
        """The name of the search: that of its folder when it was created."""
        with damage(self.file):
            return str(self._select("SELECT name FROM search")[0][0])

    @property
    def identity(self) -> Identity:
        """The identity of the search."""
        with damage(self.file):
            return dict(json.loads(self._select("SELECT identity FROM search")[0][0]))

    def keep_identity(self, identity: Mapping[str, object]) -> None:
        """Replace the identity of the search."""
        self._select("UPDATE search SET identity = ?", json.dumps(identity))

    def close(self) -> None:
        """Close the database; the last process to do so leaves a single file."""
        self._database.close()

    def changed(self, since: int = 0) -> tuple[Sequence[TrialRecord], int]:
        """Return the records that have changed since a revision, and the new revision."""
        # Changes between the two statements are read again the next time.
        [[revision]] = self._select("SELECT coalesce(max(revision), 0) FROM records")
        return self._records("records.revision > ?", since), revision

    @property
    def splits(self) -> Mapping[SplitName, Split]:
        """How the outcomes on each split are read."""
        with damage(self.file):
            plain = json.loads(self._select("SELECT splits FROM search")[0][0])
            return {name: Split.restored(split) for name, split in plain.items()}

    @property
    def looks(self) -> Looks:
        """The looks of the search."""
        [[planned]] = self._select("SELECT planned FROM search")
        rows = self._select("SELECT due, alpha, finalists, rounds FROM looks ORDER BY place")
        with damage(self.file):
            made = (Look(due, alpha, tuple(json.loads(keys)), rounds) for due, alpha, keys, rounds in rows)
            return Looks(planned, tuple(made))

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation of the search."""
        [[kept]] = self._select("SELECT confirmation FROM search")
        with damage(self.file):
            return None if kept is None else Confirmation.restored(json.loads(kept))

    @property
    def stopped_by(self) -> Stop | None:
        """What stopped the last worker that left."""
        if self._version() == _WITHOUT_STOP:
            return None
        [[stopped]] = self._select("SELECT stopped FROM search")
        with damage(self.file):
            return _STOPS[stopped]

    def keep_stop(self, stop: Stop | None) -> None:
        """Keep what has stopped a worker."""
        self._select("UPDATE search SET stopped = ?", stop)

    @contextlib.contextmanager
    def sign_in(self) -> Iterator[str]:
        """Sign in as a worker until the context ends."""
        worker = uuid.uuid4().hex
        with held(self._workers / worker):
            yield worker

    def at_work(self) -> frozenset[str]:
        """Return the names of the live workers."""
        return _living(self._workers)

    def describe_worker(self, worker: str, place: Workplace, active: Sequence[str], missing: Sequence[str]) -> bool:
        """Store a worker's place and its sandbox's layers; return whether it lacks others than earlier workers."""
        devices = json.dumps(dict(place.devices))
        where = (worker, place.host, devices, place.hardware, json.dumps(dict(place.software)))
        row = (*where, time.time(), json.dumps(active), json.dumps(missing))
        with self._writing():
            known = self._select("SELECT name FROM workers WHERE missing = ?", row[-1])
            self._select(f"INSERT OR REPLACE INTO workers VALUES ({_marks(row)})", *row)
        return bool(missing) and not known

    def workplaces(self, past: bool = False) -> Mapping[str, Workplace]:
        """Return the places of the live workers, or with `past` of all workers ever."""
        rows = self._select("SELECT name, host, devices, hardware, software FROM workers")
        living = self.at_work()
        with damage(self.file):
            return {
                name: Workplace(host, json.loads(devices), hardware, json.loads(software))
                for name, host, devices, hardware, software in rows
                if past or name in living
            }

    def share_drafts(self, entries: Sequence[Draft], since: int = 0) -> tuple[Sequence[Draft], int]:
        """Store drafts; return those of others since a position, and the new position."""
        from evaluation import Draft  # on demand: reading a leaderboard does not wait for it

        columns = "place, prompt, tokens, parent, passed"
        rows = [(each.prompt, array("I", each.tokens).tobytes(), each.parent, each.passed) for each in entries]
        with self._writing():
            others = self._select(f"SELECT {columns} FROM drafts WHERE place > ? ORDER BY place", since)
            with database_errors(self.file):
                self._database.executemany("INSERT INTO drafts VALUES (NULL, ?, ?, ?, ?)", rows)
                self._database.executemany(_FORGET, {(each.prompt,) for each in entries})
            [[position]] = self._select("SELECT coalesce(max(place), 0) FROM drafts")
        with damage(self.file):
            found = [
                Draft(prompt, tuple(array("I", tokens)), bool(parent), bool(passed))
                for _, prompt, tokens, parent, passed in others
            ]
        return found, position

    def verdict(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key."""
        from evaluation import Verdict

        found = self._select("SELECT status, detail FROM verdicts WHERE key = ?", key)
        with damage(self.file):
            if found and found[0][0] not in CODES:
                raise ValueError(found[0][0])
        return Verdict(*found[0]) if found else None

    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Store verdicts by their keys."""
        rows = [(key, verdict.status, verdict.detail) for key, verdict in verdicts.items()]
        with self._writing(), database_errors(self.file):
            self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with database_errors(self.file):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                [[before]] = self._select("SELECT coalesce(max(revision), 0) FROM records")
                self._revision = before + 1
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # after an error such as a full disk, SQLite has already ended it
                    self._database.execute("ROLLBACK")
                raise

    def _select(self, statement: str, *values: object) -> list[Any]:
        with damage(self.file), database_errors(self.file):
            return self._database.execute(statement, values).fetchall()

    def _records(self, where: str, *values: object) -> Sequence[TrialRecord]:
        rows = self._select(_SELECT.format(where), *values)
        with damage(self.file):
            return sorted((record_of(row, self.file) for row in rows), key=_order)

    def _load(self, key: str) -> TrialRecord | None:
        return next(iter(self._records("records.key = ?", key)), None)

    def _save(self, record: TrialRecord) -> None:
        row = [record.key, *encoded(record, RECORD_COLUMNS), self._revision]
        self._select(f"INSERT OR REPLACE INTO records VALUES ({_marks(row)})", *row)
        for split, scoring in zip(SPLITS, (record.search, record.report, record.confirm), strict=True):
            if scoring is None:
                self._select("DELETE FROM scorings WHERE key = ? AND split = ?", record.key, split)
            else:
                row = [record.key, split, *encoded(scoring, SCORING_COLUMNS)]
                self._select(f"INSERT OR REPLACE INTO scorings VALUES ({_marks(row)})", *row)

    def _in_state(self, split: SplitName, state: State) -> Sequence[TrialRecord]:
        return self._records(f"{split}.state = ?", state)

    def _count(self, kind: Kind) -> int:
        [[count]] = self._select("SELECT count(*) FROM records WHERE kind = ?", kind)
        return int(count)

    def _keep_splits(self, splits: Mapping[SplitName, Split], planned: int) -> None:
        plain = {name: asdict(split) for name, split in splits.items()}
        self._select("UPDATE search SET splits = ?, planned = ?", json.dumps(plain), planned)

    def _keep_confirmation(self, plan: Confirmation) -> None:
        self._select("UPDATE search SET confirmation = ?", json.dumps(asdict(plan)))

    def _add_look(self, look: Look) -> None:
        row = look.due, look.alpha, json.dumps(look.finalists), look.rounds
        self._select("INSERT INTO looks VALUES (NULL, ?, ?, ?, ?)", *row)

    def _version(self) -> int:
        [[version]] = self._select("PRAGMA user_version")
        return int(version)

    def _check(self, reading: bool) -> None:
        """Raise SearchError if the database is not one of ours."""
        if _TABLES - _tables(self._database):
            raise SearchError(f"{self.file}: holds no search; {restore(self.file.parent)}")
        if not reading and self._version() == _WITHOUT_STOP:
            self._upgrade()
        if self._version() not in (_VERSION, *[_WITHOUT_STOP] * reading):
            raise SearchError(
                f"{self.file}: was made by another version of merge-search; use that one, or start over with "
                f"{start_over(self.file.parent)}"
            )
        with damage(self.file):
            for [split] in self._select(_OF_NO_SPLIT):
                raise ValueError(split)

    def _upgrade(self) -> None:
        """Make a store without the column `stopped` one of this version, unless another worker has."""
        with self._writing():
            if self._version() == _WITHOUT_STOP:
                self._select("ALTER TABLE search ADD COLUMN stopped TEXT")
                self._select(f"PRAGMA user_version = {_VERSION}")


def _living(workers: Path) -> frozenset[str]:
    return frozenset(file.name for file in workers.glob("*") if is_held(file))


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _marks(row: Sequence[object]) -> str:
    return ", ".join("?" * len(row))


def _order(record: TrialRecord) -> tuple[bool, bool, int]:
    return record.kind == "trial", record.kind == "average", record.number
