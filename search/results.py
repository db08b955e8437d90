"""A results folder: ``results/NAME/``, everything that a search leaves behind.

    config.yaml            the config as it was given
    search.db              everything else that the search knows; see `LocalStore` (SQLite). Another kind of store has
                           another file; see `stores`
    completions/           what the models wrote; see `CompletionFiles`
    statistics/            what depends only on the parents; may be removed, and is then computed again
    worker.log             what happened, with tracebacks

Guarantees: a folder belongs to one config; opening it with another is refused and changes nothing. It may be moved
and renamed. A folder of an early development version (search.json, study.db) is refused, and the error says so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from merging.caches import put, sweep
from search.completion_files import COMPLETIONS, CompletionFiles
from search.errors import SearchError, restore, start_over
from search.identity import COMPUTE_DTYPE, Identity, adopted, check, computes_in
from search.locks import exclusive
from search.shell import shell_command
from search.study.confirmation import Confirmation
from search.study.database import damage, folder_errors
from search.study.looks import Looks
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord
from search.study.stores import FolderStore, kind_of, kinds

if TYPE_CHECKING:
    from search.space.config import SearchConfig
    from search.space.space import SearchSpace

_CONFIG, _LOG, _LOCK = "config.yaml", "worker.log", ".lock"
# What a search of an early development version consists of.
_OLD = ("search.json", "study.db")
_UNKNOWN: dict[SplitName, Split] = {"search": Split(), "report": Split()}
STATISTICS = "statistics"
"""The name of the folder of statistics, which is needed before the results folder can be opened."""


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Where one search keeps its results.

    Attributes:
        path: the folder.
        name: the search's name, which the folder had when it was made.
    """

    path: Path
    name: str

    @classmethod
    def create(
        cls,
        path: Path,
        config: SearchConfig,
        identity: Identity,
        fresh: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> ResultsFolder:
        """Make the folder of a search, or open it to continue the search that it holds.

        Args:
            path: the folder.
            config: the search's config.
            identity: plain data that must be equal for results to belong together.
            fresh: start over; what is there is moved aside, to NAME.1, NAME.2, ... (The statistics are moved
                back: they depend only on the parents' content.)
            note: called with a sentence that says where it was moved.

        Raises:
            SearchError: the folder belongs to another config, is not ours, has lost its database, or cannot be
                written.
        """
        cls.refuse(path, config, fresh)
        with _unwritable(path):
            kind = kind_of(path)
            aside = _move_aside(path.absolute()) if fresh and _holds_search(path) else None
            if aside:
                note(f"{path}: what was there is now in {path.with_name(aside.name)}")
            path.mkdir(parents=True, exist_ok=True)
            if aside and kind.GIVEN:
                shutil.copyfile(aside / kind.FILE, path / kind.FILE)
            with exclusive(path / _LOCK):
                known = cls.check(path, config, identity)
                with contextlib.closing(kind.create(path, path.resolve().name, identity)) as store:
                    if known is not None and (whole := adopted(known, identity)) != known:
                        store.keep_identity(whole)
                    folder = cls(path, store.name)
                # Only now: a worker that is killed before this leaves a folder that the next one can continue with.
                if aside and (aside / STATISTICS).exists() and not (path / STATISTICS).exists():
                    (aside / STATISTICS).rename(path / STATISTICS)
                if not folder.config_file.exists():
                    put(folder.config_file, config.text.encode())
                folder._sweep()
                folder._complete()
                return folder

    @classmethod
    def refuse(cls, path: Path, config: SearchConfig, fresh: bool) -> None:
        """Raise SearchError if the config and the folder already show that the search cannot run there.

        Opens no model, so it can be called before anything slow. Changes nothing.
        """
        if str(path.absolute()).encode(errors="replace").decode() != str(path.absolute()):
            raise SearchError(
                f"{path}: its name is not valid UTF-8, which the database needs; give another folder with --out"
            )
        with _unwritable(path):
            if path.exists() and not path.is_dir():
                raise SearchError(f"{path}: is a file; give a folder for the results with --out")
            _require_writable(path)
            if not _holds_search(path) and _is_foreign(path):
                raise SearchError(f"{path}: is not empty and holds no search; give another folder with --out")
            if fresh:
                _require_idle(path)
            elif _is_begun(path):
                known, here = cls.open(path).identity, config.identity
                plain = ("search", "merging")  # the sections that name no models or problems
                check(path, {key: known[key] for key in plain}, {key: here[key] for key in plain}, config.source)

    @classmethod
    def check(cls, path: Path, config: SearchConfig, identity: Identity) -> Identity | None:
        """Return the identity of the search that a folder holds, or None if it holds none. Changes nothing.

        Raises SearchError if that search is not the config's, or has lost its database.
        """
        if not _is_begun(path):
            return None
        known = cls.open(path).identity
        # Through JSON, so that tuples equal lists.
        here = json.loads(json.dumps(identity))
        here["evaluation"][COMPUTE_DTYPE] = config.evaluation.compute_dtype
        check(path, known, here, config.source)
        return known

    @classmethod
    def open(cls, path: Path) -> ResultsFolder:
        """Open the folder of a search to read it. Raises SearchError if it holds none."""
        require_no_file(path)
        if _is_begun(path):
            with contextlib.closing(kind_of(path)(path, reading=True)) as store:
                return cls(path, store.name)
        if (path / _LOCK).exists():
            return cls(path, path.resolve().name)
        making = shell_command("run", "CONFIG", "--out", path)
        raise SearchError(f"{path}: holds no search; `{making}` makes one")

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a folder is that of a search, which may be damaged, of an early version, or just starting."""
        return _holds_search(path) or (path / _LOCK).exists()

    @contextlib.contextmanager
    def reading(self) -> Iterator[FolderStore]:
        """Open the store without writing anything. Raises SearchError, also if no record is kept yet."""
        if not _is_begun(self.path):
            raise SearchError(f"{self.path}: a search is starting here; no trial is over yet")
        with contextlib.closing(kind_of(self.path)(self.path, reading=True)) as store:
            yield store

    @contextlib.contextmanager
    def working(self) -> Iterator[FolderStore]:
        """Open the store to work on the search, and log what happens. Raises SearchError."""
        with folder_errors(self.path), self.logging(), contextlib.closing(kind_of(self.path)(self.path)) as store:
            self._complete()
            yield store

    def read(self) -> tuple[str, Sequence[TrialRecord], Mapping[SplitName, Split], Looks]:
        """Return the search's name, its records, how their outcomes are read, and its looks. Raises SearchError."""
        if not _is_begun(self.path):
            return self.name, (), _UNKNOWN, Looks()
        with self.reading() as store:
            return self.name, store.changed()[0], {**_UNKNOWN, **store.splits}, store.looks

    def require_parameters(self, records: Iterable[TrialRecord], space: SearchSpace) -> None:
        """Raise SearchError if the parameters of a trial, by their names or values, cannot be of a search space."""
        with damage(self.path / kind_of(self.path).FILE):
            for record in records:
                if record.parameters:
                    space.require(record.parameters)

    def is_scoring(self) -> bool:
        """Whether a live worker is scoring a model on the search or the report split. Raises SearchError."""
        with self.reading() as store:
            alive = store.at_work()
            scorings = [it.on(split) for it in store.changed()[0] for split in ("search", "report")]
        return any(it.state == "running" and it.worker in alive for it in scorings)

    @property
    def has_begun(self) -> bool:
        """Whether there is a store to read. Raises SearchError if there was one once."""
        return _is_begun(self.path)

    @property
    def identity(self) -> Identity:
        """The identity of its search. Raises SearchError."""
        with self.reading() as store:
            return store.identity

    @property
    def splits(self) -> dict[SplitName, list[str]]:
        """The task ids of the splits, in order. Raises SearchError."""
        known = self.identity["problems"]
        return {"search": list(known["search"]), "report": list(known["report"])}

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation of the search, if one has begun. Raises SearchError."""
        with self.reading() as store:
            return store.confirmation

    @property
    def compute_dtype(self) -> Literal["recipe", "float32"]:
        """The dtype that every model of the search computes in: the recipe's, or float32. Raises SearchError."""
        return "float32" if computes_in(self.identity) == "float32" else "recipe"

    @property
    def completions(self) -> CompletionFiles:
        """What its models wrote."""
        return CompletionFiles(self.path / COMPLETIONS)

    @property
    def statistics(self) -> Path:
        """Where the merger keeps what depends only on the parents."""
        return self.path / STATISTICS

    @property
    def log(self) -> Path:
        """The log of what happened, with tracebacks."""
        return self.path / _LOG

    @property
    def config_file(self) -> Path:
        """The file with the config, as it was given."""
        return self.path / _CONFIG

    def _complete(self) -> None:
        """Make the folder that a copy may lack: git and zip leave out empty ones."""
        self.completions.folder.mkdir(exist_ok=True)

    def _sweep(self) -> None:
        """Remove the half-made files of killed workers."""
        for place in (self.path, self.completions.folder, self.statistics):
            sweep(place)

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


class _LogFile(logging.FileHandler):
    def close(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk, too
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # A full disk is reported once, by whoever writes results, and not with a traceback per line of the log.
        pass


@contextlib.contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise SearchError(f"{where}: cannot be written: {error.strerror}; give another folder with --out") from None


def require_no_file(path: Path) -> None:
    """Raise SearchError if a file is given in place of a results folder."""
    if path.is_file():
        raise SearchError(f"{path}: is a file; give a results folder, such as results/{path.stem}")


def existing(path: Path) -> Path:
    """Return a path, or the innermost folder around it that exists."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def _require_writable(path: Path) -> None:
    """Raise SearchError if a folder cannot be written, or not be made; permissions alone do not tell that."""
    if path.is_symlink() and not path.exists():
        raise SearchError(f"{path}: is a link to a folder that is not there; make that, or give another one with --out")
    if (around := existing(path)).is_file():
        raise SearchError(f"{path}: cannot be made: {around} is a file; give another folder with --out")
    try:
        with tempfile.TemporaryFile(dir=around):
            return
    except OSError as error:
        raise SearchError(
            f"{path}: cannot be written: {error.strerror}; make room there (or the folder writable), or give another "
            "one with --out"
        ) from None


def _holds_search(path: Path) -> bool:
    """Whether a folder is that of a search, which may be of an early version, or have lost its database."""
    ours = any((path / name).exists() for name in (_CONFIG, COMPLETIONS, _LOCK))
    return _is_old(path) or (ours and (any((path / kind.FILE).exists() for kind in kinds()) or _holds_scores(path)))


def _is_begun(path: Path) -> bool:
    """Whether a folder's store holds a search. Raises SearchError if it did once, or is of an early version."""
    kind = kind_of(path)
    absence = kind.absence(path)
    if not absence:
        return True
    file = (path / kind.FILE).resolve()
    if _is_old(path) and not file.exists():
        raise SearchError(
            f"{path}: holds a search of an early development version ({_OLD[0]}, {_OLD[1]}), which this version "
            f"cannot read; start over with {start_over(path)}, which moves it aside"
        )
    if _holds_scores(path):
        raise SearchError(f"{file}: {absence}; {restore(path)}")
    return False


def _is_old(path: Path) -> bool:
    return (path / _OLD[0]).is_file() or ((path / _CONFIG).exists() and (path / _OLD[1]).is_file())


def _holds_scores(path: Path) -> bool:
    """Whether a model was scored here, which means that there is a database, or was one."""
    return any((path / COMPLETIONS).glob("*.jsonl"))


def _is_foreign(path: Path) -> bool:
    if not path.exists() or (path / _LOCK).exists():
        return False
    # Earlier versions left a folder with only statistics when a run with `--fresh` was killed.
    ours = {STATISTICS, *(kind.FILE for kind in kinds() if kind.GIVEN)}
    return any(entry.name not in ours for entry in path.iterdir())


def _require_idle(path: Path) -> None:
    if kind_of(path).is_busy(path):
        raise SearchError(f"{path}: a search is running there; stop it first, or give another folder with --out")


def _move_aside(path: Path) -> Path:
    _require_idle(path)
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)
    return aside
