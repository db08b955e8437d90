"""An overview of searches, for `merge-search list`: one line per results folder below a folder.

Guarantees: writes nothing. A folder that cannot be read has a line that says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from search.board.leaderboard import Leaderboard, Row
from search.board.round_looks import confirmation_ended
from search.board.search_verdict import left_to_report
from search.counts import counted
from search.errors import SearchError
from search.results import ResultsFolder
from search.space.sections import SearchSection, Sections
from search.stopping import TIME_IS_OVER, SearchSoFar, ended_by
from search.study.record import SplitName, TrialRecord
from search.study.store import Stop

State: TypeAlias = Literal["starting", "running", "stopped", "ended", "unreadable"]
_STOPPED: Mapping[Stop, str] = {
    "time": TIME_IS_OVER,
    "Ctrl-C": "by Ctrl-C",
    "SIGTERM": "by SIGTERM",
    "error": "by an error",
}
_SPLITS: tuple[SplitName, ...] = ("search", "report", "confirm")


@dataclass(frozen=True, slots=True)
class SearchOverview:
    """The state of one search.

    Attributes:
        path: its results folder.
        state: ``running`` if a worker is at work; ``stopped`` if none is, and something is left to do.
        why: the rule that ended it; what stopped it, as far as that is kept, and what is left to do; or why it cannot
            be read; in words.
        board: its leaderboard, if it can be read.
        planned: how many trials were planned when it was made; 0 if that is not known yet.
        workers: how many workers are at work.
        active: when the scoring of a model last began or ended, in seconds since the epoch.
    """

    path: Path
    state: State
    why: str = ""
    board: Leaderboard | None = None
    planned: int = 0
    workers: int = 0
    active: float | None = None

    @classmethod
    def of(cls, path: Path) -> SearchOverview:
        """Read the state of the search in a results folder."""
        try:
            return _overview(ResultsFolder.open(path))
        except (SearchError, OSError) as error:
            reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
            return cls(path, "unreadable", reason.removeprefix(f"{path}: ").removeprefix(f"{path.resolve()}/"))

    @property
    def done(self) -> int:
        """How many trials are over."""
        return len(self.board.trials) if self.board else 0

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(record.search.state == "failed" for record in self.board.trials) if self.board else 0

    @property
    def best(self) -> Row | None:
        """The row of the best trial, if there is one."""
        return self.board.best_row if self.board else None


def overviews(folder: Path) -> Sequence[SearchOverview]:
    """Return the overviews of the searches in a folder and below, the most recently active first.

    Raises SearchError if there is no such folder.
    """
    if not folder.is_dir():
        raise SearchError(f"{folder}: no such folder; give the one that holds your results folders")
    found = [SearchOverview.of(path) for path in _results_folders(folder)]
    return sorted(found, key=lambda each: (-(each.active or 0.0), str(each.path)))


def _results_folders(folder: Path) -> Iterator[Path]:
    """Yield the results folders in a folder and below, without looking inside one."""
    if ResultsFolder.is_one(folder):
        yield folder
        return
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        linked = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink() and Path(entry).is_dir())
    except OSError:
        return
    yield from (folder / name for name in linked if ResultsFolder.is_one(folder / name))
    for name in below:
        if not name.startswith("."):
            yield from _results_folders(folder / name)


def _overview(folder: ResultsFolder) -> SearchOverview:
    if not folder.has_begun:
        return SearchOverview(folder.path, "starting", "no model is scored yet")
    with folder.reading() as store:
        workers = len(store.at_work())  # first, so that what they finish meanwhile is read below
        stopped = store.stopped_by
    name, records, splits, looks = folder.read()
    found = SearchSoFar(records, splits, looks, looks.planned)
    ended, left = ("", "") if workers else _at_rest(folder, found, stopped)
    state: State = "running" if workers else "ended" if ended else "stopped"
    board = Leaderboard.of(name, records, splits, looks)
    return SearchOverview(folder.path, state, ended or left, board, looks.planned, workers, _active(records))


def _at_rest(folder: ResultsFolder, found: SearchSoFar, stopped: Stop | None) -> tuple[str, str]:
    """Return the rule that ended a search that has no worker at work, or else what stopped it and what is left to do.

    Args:
        folder: the results folder.
        found: what stop rules know of the search.
        stopped: what stopped the last worker, if that is kept.
    """
    if "confirm" in found.splits:
        ended = confirmation_ended(found.records, found.splits, found.looks)
        return ended, "" if ended else _stopped(stopped, "the confirmation is not over")
    try:
        settings = Sections.load(folder.config_file).search
    except SearchError:  # a copy may lack it, or somebody has changed it
        settings = SearchSection()
    ended = TIME_IS_OVER if stopped == "time" else ended_by(found, settings.stop)
    if not ended:
        return "", _stopped(stopped, _left(found.trials - len(found.over), "trial"))
    if waiting := left_to_report(found.records, found.splits, found.looks, settings.finalists):
        return "", _stopped(stopped, f"{_left(len(waiting), 'model')} to be scored on the report split")
    # If a worker was stopped although a rule has ended the search, it was to run more trials than were planned.
    return (ended, "") if stopped in (None, "time") else ("", _stopped(stopped))


def _stopped(stopped: Stop | None, left: str = "") -> str:
    return ", ".join(filter(None, [_STOPPED[stopped] if stopped else "", left]))


def _left(count: int, what: str) -> str:
    return counted(count, f"{what} is left", f"{what}s are left")


def _active(records: Sequence[TrialRecord]) -> float | None:
    """Return when the scoring of a model last began or ended, in seconds since the epoch."""
    scorings = [record.on(split) for record in records for split in _SPLITS]
    times = [it.started + it.seconds.get("total", 0.0) for it in scorings if it.started is not None]
    return max(times, default=None)
