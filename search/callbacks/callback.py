"""A callback, which each worker tells what becomes of a search.

Guarantees: a callback that raises is told nothing more, and does not end the search.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.board.leaderboard import Leaderboard
from search.progress import SearchStatus
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord

if TYPE_CHECKING:
    from search.results import ResultsFolder
    from search.space.config import SearchConfig

_LOG = logging.getLogger("search.callbacks")


@dataclass(frozen=True, slots=True)
class BegunSearch:
    """A search that a worker begins or continues.

    Attributes:
        folder: its results folder.
        config: its config.
        records: its records, as far as they are known now.
        over: the records that no worker will report any more, because theirs is no longer at work.
        splits: how the outcomes on each split are read.
        say: shows a line to the user.
    """

    folder: ResultsFolder
    config: SearchConfig
    records: tuple[TrialRecord, ...]
    over: tuple[TrialRecord, ...]
    splits: Mapping[SplitName, Split]
    say: Callable[[str], None]


class Callback:
    """Told what becomes of a search. This one does nothing; override what is of interest."""

    def on_begin(self, search: BegunSearch) -> None:
        """This worker begins."""

    def on_record(self, record: TrialRecord, split: SplitName, status: SearchStatus) -> None:
        """This worker has scored a model, or has failed to.

        Args:
            record: what became of the model; `record.kind` says whether it is a trial.
            split: the split that it was scored on; a model comes once per split (in a confirmation, once per round).
            status: the state of the search now.
        """

    def on_end(self, leaderboard: Leaderboard) -> None:
        """This worker ends; others may still be at work. Not called if a second Ctrl-C ends it at once."""


@dataclass
class Callbacks:
    """Tells several callbacks, and switches off those that raise.

    Attributes:
        active: the callbacks that are told.
        say: shows a line to the user.
    """

    active: list[Callback] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None

    @classmethod
    def of(cls, callbacks: Iterable[Callback], say: Callable[[str], None]) -> Callbacks:
        """Return an object that tells these callbacks."""
        return cls(list(callbacks), say)

    @contextlib.contextmanager
    def during(self, search: Callable[[], BegunSearch], found: Callable[[], Leaderboard]) -> Iterator[None]:
        """Tell the callbacks that a worker begins and, at the end of the context, that it ends.

        Args:
            search: returns the search that it works on.
            found: returns the leaderboard at the end.
        """
        self._tell(lambda callback: callback.on_begin(search()))
        try:
            yield
        except Exception:
            self._end(found)
            raise
        self._end(found)

    def record(self, record: TrialRecord, split: SplitName, status: SearchStatus) -> None:
        """Tell the callbacks that a model was scored."""
        self._tell(lambda callback: callback.on_record(record, split, status))

    def _end(self, found: Callable[[], Leaderboard]) -> None:
        self._tell(lambda callback: callback.on_end(found()))

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in tuple(self.active):
            try:
                call(callback)
            except Exception as error:  # whatever it is, the search must go on
                name = type(callback).__name__
                _LOG.exception("%s failed and is switched off", name)
                self.active.remove(callback)
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self.say(f"{name} failed and is told nothing more; the search goes on: {reason}")
