"""A results folder: ``results/NAME/``, everything that a search leaves behind.

    config.yaml            the config as it was given
    search.json            the study's name, and what must stay the same when the search goes on, the splits included
    study.db               the two Optuna studies: NAME, and NAME/baselines (SQLite)
    drafts.jsonl           what each model wrote, as token ids, for the next ones to go faster by; may be deleted
    completions/*.jsonl    what each model wrote, a line a problem; a merge that was scored before has none again
    verdicts.db            what became of each program that was executed, so that it is executed once (SQLite)
    statistics/            what was computed of the parents alone; may be removed, and is then computed again
    sandbox.jsonl          the layers of the sandbox that each worker had, a line a worker
    worker.log             what happened, with tracebacks

Guarantees: a folder belongs to one config; opening it with another is refused and changes nothing. It may be moved
and renamed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from merging.caches import put, sweep
from search.errors import SearchError
from search.identity import COMPUTE_DTYPE, Identity, adopted, check, computes_in
from search.locks import exclusive, held, is_held

if TYPE_CHECKING:
    from evaluation import Isolation, Outcome
    from search.space.config import SearchConfig

_CONFIG, _SEARCH, _STUDY, _COMPLETIONS, _LOG = "config.yaml", "search.json", "study.db", "completions", "worker.log"
_DRAFTS, _VERDICTS, _SANDBOX = "drafts.jsonl", "verdicts.db", "sandbox.jsonl"
_LOCK, _WORKERS = ".lock", ".workers"
STATISTICS = "statistics"
"""What the folder of the statistics is called; it is read before the results folder is there to be opened."""
# Remedies of what may become of a folder.
RESTORE = "restore it from a copy, or begin anew with --fresh"
MAKE_ROOM = "what was scored is kept: make room (or the folder writable) and run the same command again"


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Where one search keeps its results.

    Attributes:
        path: the folder.
        study: the study's name: what the folder was called when it was made.
    """

    path: Path
    study: str

    @classmethod
    def create(
        cls,
        path: Path,
        config: SearchConfig,
        identity: Identity,
        fresh: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> ResultsFolder:
        """Make the folder of a search, or open it to go on with the search that it holds.

        Args:
            path: the folder.
            config: the search's config.
            identity: plain data that must be equal for results to belong together.
            fresh: begin anew; what is there is moved aside, to NAME.1, NAME.2, ... (The statistics, which are of the
                parents alone, and of any parents by their content, come back from there.)
            note: told where it was moved.

        Raises:
            SearchError: the folder belongs to another config, is none of ours, has lost its database, or cannot be
                written.
        """
        if str(path.absolute()).encode(errors="replace").decode() != str(path.absolute()):
            raise SearchError(f"{path}: is no UTF-8, as names in a database must be; give another folder with --out")
        try:
            if path.exists() and not path.is_dir():
                raise SearchError(f"{path}: is a file; give a folder for the results with --out")
            if not _holds_search(path) and _is_foreign(path):
                raise SearchError(f"{path}: is not empty and holds no search; give another folder with --out")
            aside = _move_aside(path.absolute()) if fresh and _holds_search(path) else None
            if aside:
                note(f"{path}: what was there is now in {path.with_name(aside.name)}")
            path.mkdir(parents=True, exist_ok=True)
            with exclusive(path / _LOCK):
                known = cls.check(path, config, identity)
                study = path.resolve().name if known is None else cls.open(path).study
                if (whole := identity if known is None else adopted(known, identity)) != known:
                    write_atomically(path / _SEARCH, json.dumps({"study": study, "identity": whole}, indent=2))
                # Only now: who is killed before leaves a folder that the next one goes on with.
                if aside and (aside / STATISTICS).exists() and not (path / STATISTICS).exists():
                    (aside / STATISTICS).rename(path / STATISTICS)
                folder = cls(path, study)
                folder.require_database(missing=folder.holds_scores())
                if not folder.config_file.exists():
                    write_atomically(folder.config_file, config.text)
                folder._sweep()
                # Copies lack empty and hidden folders: git and zip leave them out.
                (path / _COMPLETIONS).mkdir(exist_ok=True)
                (path / _WORKERS).mkdir(exist_ok=True)
                return folder
        except OSError as error:
            where = error.filename or path
            raise SearchError(f"{where}: cannot be written: {error.strerror}; give another folder with --out") from None

    @classmethod
    def check(cls, path: Path, config: SearchConfig, identity: Identity) -> Identity | None:
        """Return the identity of the search that a folder holds, or None if it holds none. Changes nothing.

        Raises SearchError if that search is another one than the config's, or not to be told any more.
        """
        if not (path / _SEARCH).exists():
            if _holds_trials(path):
                raise _lost(path)
            return None
        known = cls.open(path).identity
        # Through JSON once, so that tuples and lists are one.
        here = json.loads(json.dumps(identity))
        here["evaluation"][COMPUTE_DTYPE] = config.evaluation.compute_dtype
        check(path, known, here, config.source)
        return known

    @property
    def identity(self) -> Identity:
        """What its search is of. Raises SearchError."""
        try:
            found = json.loads((self.path / _SEARCH).read_text(encoding="utf-8"))["identity"]
            return dict(found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(self.path / _SEARCH, error) from None

    @classmethod
    def open(cls, path: Path) -> ResultsFolder:
        """Open the folder of a search to read it. Raises SearchError if it holds none."""
        try:
            study = json.loads((path / _SEARCH).read_text(encoding="utf-8"))["study"]
            if isinstance(study, str):
                return cls(path, study)
            raise TypeError
        except (FileNotFoundError, NotADirectoryError):
            if _holds_trials(path):
                raise _lost(path) from None
            if path.is_file():
                raise SearchError(f"{path}: is a file; give a results folder, such as results/{path.stem}") from None
            raise SearchError(f"{path}: holds no search; `merge-search run CONFIG --out {path}` makes one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(path / _SEARCH, error) from None

    @property
    def database(self) -> Path:
        """Where Optuna keeps the studies."""
        return (self.path / _STUDY).resolve()

    def require_database(self, missing: bool) -> None:
        """Raise SearchError if there are no studies to be read, and they are `missing` indeed."""
        file = self.database
        if missing and not (file.is_file() and file.stat().st_size):
            what = "is missing" if not file.exists() else "is empty" if file.is_file() else "is no file"
            raise SearchError(f"{self.database}: {what}; {RESTORE}")

    def holds_scores(self) -> bool:
        """Whether a model was scored here: then there is a database, or there was."""
        return any((self.path / _COMPLETIONS).glob("*.jsonl"))

    @property
    def splits(self) -> dict[str, list[str]]:
        """The task ids of the splits ``search`` and ``report``, in order. Raises SearchError."""
        try:
            known = self.identity["problems"]
            return {name: list(known[name]) for name in ("search", "report")}
        except (KeyError, TypeError) as error:
            raise _unreadable(self.path / _SEARCH, error) from None

    @property
    def compute_dtype(self) -> Literal["recipe", "float32"]:
        """What every model of the search computes in: the recipe's dtype, or float32. Raises SearchError."""
        return "float32" if computes_in(self.identity) == "float32" else "recipe"

    @property
    def drafts(self) -> Path:
        """Where what the models wrote lies as token ids."""
        return self.path / _DRAFTS

    @property
    def statistics(self) -> Path:
        """Where the merger keeps what it computed of the parents alone."""
        return self.path / STATISTICS

    @property
    def log(self) -> Path:
        """Where what happened lies, with tracebacks."""
        return self.path / _LOG

    @property
    def config_file(self) -> Path:
        """Where the config lies, as it was given."""
        return self.path / _CONFIG

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other worker changes what there is to do."""
        return exclusive(self.path / _LOCK)

    @contextlib.contextmanager
    def sign_in(self) -> Iterator[str]:
        """Be a worker on this folder: yield a name under which `is_at_work` finds it until it ends, or dies."""
        worker = uuid.uuid4().hex
        with held(self.path / _WORKERS / worker):
            yield worker

    def others_at_work(self, worker: str) -> bool:
        """Whether any other worker lives."""
        return any(file.name != worker and is_held(file) for file in (self.path / _WORKERS).iterdir())

    def is_at_work(self, worker: str) -> bool:
        """Whether the worker of that name still lives."""
        return is_held(self.path / _WORKERS / worker)

    def _sweep(self) -> None:
        """Remove what killed workers left half made, and their lock files."""
        sweep(self.path / _WORKERS, "*")
        for place in (self.path, self.path / _COMPLETIONS, self.statistics):
            sweep(place)

    def save_completions(self, name: str, outcomes: Iterable[Outcome]) -> None:
        """Write what a model wrote, as a samples file that `merge-search score` reads. Raises SearchError."""
        lines = [
            json.dumps(
                {"task_id": o.task_id, "completion": o.completion, "status": o.status, "tokens": o.completion_tokens}
            )
            for o in outcomes
        ]
        file = self.path / _COMPLETIONS / f"{name}.jsonl"
        try:
            write_atomically(file, "".join(line + "\n" for line in lines))
        except OSError as error:
            raise SearchError(f"{file}: cannot be written: {error.strerror}; {MAKE_ROOM}") from None

    def keep_completions(self, numbers: Collection[int]) -> None:
        """Remove the completions of trials that are none of these: they were lost with their workers."""
        kept = {f"trial-{number}.jsonl" for number in numbers}
        for file in (self.path / _COMPLETIONS).glob("trial-*.jsonl"):
            if file.name not in kept:
                file.unlink(missing_ok=True)

    @property
    def verdicts(self) -> Path:
        """Where the verdicts of programs are kept."""
        return (self.path / _VERDICTS).resolve()

    def record_isolation(self, worker: str, isolation: Isolation) -> bool:
        """Add a worker's line to the file of the sandboxes; return whether layers are missing that none missed before.

        Raises SearchError.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"worker": worker, "host": platform.node(), "started": started, "active": isolation.active}
        file = self.path / _SANDBOX
        missing = json.dumps(isolation.missing)
        try:
            with file.open("a+", encoding="utf-8", errors="replace") as lines:
                lines.seek(0)
                is_new = bool(isolation.missing) and not any(missing in known for known in lines)
                lines.write(json.dumps(line | {"missing": isolation.missing}) + "\n")
                return is_new
        except OSError as error:
            raise SearchError(f"{file}: cannot be written: {error.strerror}; {MAKE_ROOM}") from None

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Append what this package and the two below it log to the folder's log while this lasts."""
        loggers = [logging.getLogger(name) for name in ("search", "merging", "evaluation")]
        handler = _LogFile(self.path / _LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate
            handler.close()


def _unreadable(file: Path, error: Exception) -> SearchError:
    reason = error.strerror if isinstance(error, OSError) else "it does not describe a search"
    return SearchError(f"{file}: cannot be read: {reason}; {RESTORE}")


class _LogFile(logging.FileHandler):
    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk, too
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # A full disk is told once, by who writes results, and not with a traceback for each line of the log.
        pass


def _holds_search(path: Path) -> bool:
    """Whether a folder is that of a search, which may have lost what tells of it."""
    ours = any((path / name).exists() for name in (_CONFIG, _COMPLETIONS, _LOCK))
    return (path / _SEARCH).exists() or (ours and _holds_trials(path))


def _holds_trials(path: Path) -> bool:
    """Whether there is a database, which is made after search.json."""
    database = path / _STUDY
    return database.is_file() and database.stat().st_size > 0


def _lost(path: Path) -> SearchError:
    return SearchError(
        f"{path / _SEARCH}: is missing, and {_STUDY} holds trials of the search that it told of; {RESTORE}"
    )


def _is_foreign(path: Path) -> bool:
    if not path.exists() or (path / _SEARCH).exists() or (path / _LOCK).exists():
        return False
    # Statistics alone are what `--fresh` once left when it was killed.
    return any(entry.name != STATISTICS for entry in path.iterdir())


def _move_aside(path: Path) -> Path:
    workers = path / _WORKERS
    if workers.exists() and any(is_held(worker) for worker in workers.iterdir()):
        raise SearchError(f"{path}: a search is running there; stop it first, or give another folder with --out")
    sweep(workers, "*")
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def write_atomically(file: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    put(file, text.encode())
