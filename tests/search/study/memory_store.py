"""A store in memory, whose leases end by a clock: what a store is that knows nothing of files.

A worker is at work for `LEASE_SECONDS` after it was last heard of, on a clock that is given.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from search.study.confirmation import Confirmation
from search.study.looks import Look, Looks
from search.study.record import Kind, SplitName, State, TrialRecord
from search.study.store import Stop, Store, Workplace

if TYPE_CHECKING:
    from evaluation import Draft, Verdict
    from search.study.outcomes import Split

LEASE_SECONDS: Final = 60.0
_KINDS: Sequence[Kind] = ("parent", "average", "trial")


class MemoryStore(Store):
    """A store for the workers of one process.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[str, tuple[int, TrialRecord]] = {}
        self._revision = 0
        self._splits: dict[SplitName, Split] = {}
        self._looks = Looks()
        self._confirmation: Confirmation | None = None
        self._stop: Stop | None = None
        self._heard: dict[str, float] = {}
        self._workers: dict[str, tuple[Workplace, Sequence[str], Sequence[str]]] = {}
        self._drafts: list[Draft] = []
        self._verdicts: dict[bytes, Verdict] = {}

    def changed(self, since: int = 0) -> tuple[Sequence[TrialRecord], int]:
        """Return what has changed since a revision."""
        found = [record for revision, record in self._records.values() if revision > since]
        return sorted(found, key=_place), self._revision

    @property
    def splits(self) -> Mapping[SplitName, Split]:
        """How the outcomes on each split are read."""
        return self._splits

    @property
    def looks(self) -> Looks:
        """The looks of the search."""
        return self._looks

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation of the search."""
        return self._confirmation

    @property
    def stopped_by(self) -> Stop | None:
        """What stopped the last worker that left."""
        return self._stop

    def keep_stop(self, stop: Stop | None) -> None:
        """Keep what has stopped a worker."""
        self._stop = stop

    @contextlib.contextmanager
    def sign_in(self) -> Iterator[str]:
        """Be a worker."""
        worker = uuid.uuid4().hex
        self.renew(worker)
        try:
            yield worker
        finally:
            del self._heard[worker]

    def renew(self, worker: str) -> None:
        """Hear of a worker: it holds its leases for another `LEASE_SECONDS`."""
        self._heard[worker] = self._clock()

    def at_work(self) -> frozenset[str]:
        """Return the names of the workers whose leases have not ended."""
        return frozenset(name for name, heard in self._heard.items() if self._clock() - heard < LEASE_SECONDS)

    def describe_worker(self, worker: str, place: Workplace, active: Sequence[str], missing: Sequence[str]) -> bool:
        """Keep where a worker is, and which layers its sandbox has."""
        is_new = bool(missing) and all(missing != lacked for *_, lacked in self._workers.values())
        self._workers[worker] = place, active, missing
        return is_new

    def workplaces(self, past: bool = False) -> Mapping[str, Workplace]:
        """Return where the workers are whose leases have not ended, or all that ever said so."""
        return {name: place for name, (place, *_) in self._workers.items() if past or name in self.at_work()}

    def share_drafts(self, entries: Sequence[Draft], since: int = 0) -> tuple[Sequence[Draft], int]:
        """Keep drafts, and return those of others."""
        others = self._drafts[since:]
        self._drafts += entries
        return others, len(self._drafts)

    def verdict(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key."""
        return self._verdicts.get(key)

    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep verdicts."""
        self._verdicts |= verdicts

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        before = dict(self._records)
        self._revision += 1
        try:
            yield
        except BaseException:
            self._records = before
            raise

    def _load(self, key: str) -> TrialRecord | None:
        return self._records[key][1] if key in self._records else None

    def _save(self, record: TrialRecord) -> None:
        self._records[record.key] = self._revision, record

    def _in_state(self, split: SplitName, state: State) -> Sequence[TrialRecord]:
        return [record for record in self.changed()[0] if record.on(split).state == state]

    def _count(self, kind: Kind) -> int:
        return sum(record.kind == kind for _, record in self._records.values())

    def _keep_splits(self, splits: Mapping[SplitName, Split], planned: int) -> None:
        self._splits, self._looks = dict(splits), replace(self._looks, planned=planned)

    def _keep_confirmation(self, plan: Confirmation) -> None:
        self._confirmation = plan

    def _add_look(self, look: Look) -> None:
        self._looks = replace(self._looks, made=(*self._looks.made, look))


def _place(record: TrialRecord) -> tuple[int, int]:
    return _KINDS.index(record.kind), record.number
