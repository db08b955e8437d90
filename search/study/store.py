"""The store: the only place for what the workers of a search share.

Guarantees: a job is leased to one worker at a time. A job that its worker did not finish is run again under the same
number and with the same parameters, after all other jobs, so that a job that kills its workers does so last. A job that
has ended its worker twice, by an error or by a death, fails. This holds for every implementation: they keep records and
say who is at work, and the rules are here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from search.study.confirmation import Confirmation
from search.study.looks import Look
from search.study.record import ASCENT, Kind, Parameters, SamplerNotes, Scoring, SplitName, State, TrialRecord

if TYPE_CHECKING:
    from evaluation import Draft, Verdict
    from search.study.looks import Looks
    from search.study.outcomes import Split

Stop: TypeAlias = Literal["time", "Ctrl-C", "SIGTERM", "error"]
"""What stops a worker before its search has ended."""
DIED: Final = "its worker died"
TRIES: Final = 2
"""How often a job may be run without finishing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model to score on a split, leased to a worker."""

    record: TrialRecord
    split: SplitName
    worker: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """Parameters of a trial; see `TrialRecord`."""

    parameters: Parameters
    proposed_by: str
    seen: int = 0
    sampler_notes: SamplerNotes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workplace:
    """The place of a worker.

    Attributes:
        host: the machine's name.
        devices: by the worker's name for each device that it merges and evaluates on, the card's identity as the driver
            reports it, or "".
        hardware: its processor and cards, in words.
        software: the versions of the packages that do the work, by name.
    """

    host: str
    devices: Mapping[str, str]
    hardware: str = ""
    software: Mapping[str, str] = field(default_factory=dict)


class Store(ABC):
    """The state that the workers of a search share. Every method is a transaction of its own."""

    def begin(
        self,
        references: Sequence[TrialRecord],
        warm_starts: Sequence[Proposal] = (),
        splits: Mapping[SplitName, Split] | None = None,
        planned: int = 0,
        retry_failed: bool = False,
        taken_over: Sequence[TrialRecord] = (),
        spent: float = 0.0,
    ) -> None:
        """Begin the search, or continue it.

        Args:
            references: the models that candidates are compared with; they are scored first. Ignored once there are any.
            warm_starts: trials to run first, without those whose parameters a trial already has.
            splits: how the outcomes on each split are read; ignored once that is known.
            planned: the number of trials that the search is to have, by which its looks are planned; stored with the
                splits.
            retry_failed: run again all that failed. A failed reference model is run once more in any case, because
                without it nothing can be compared.
            taken_over: trials of an earlier search, with their scores, which get new numbers here; without those whose
                parameters a trial already has.
            spent: the part of alpha that earlier looks at the report split have spent; stored with the splits.
        """
        with self._writing():
            if not self._count("parent"):
                for record in references:
                    self._save(record)
            if splits and not self.splits:
                self._keep_splits(splits, planned)
                if spent:
                    self._add_look(Look(None, spent, ()))
            self._add([*taken_over, *(_proposed(TrialRecord("trial"), proposal) for proposal in warm_starts)])
            for record in self._in_state("search", "failed"):
                if retry_failed or (record.kind != "trial" and not record.search.tries):
                    tries = () if retry_failed else (record.search.error or "",)
                    self._save(replace(record, search=Scoring(started=record.search.started, tries=tries)))
            for record in self._in_state("report", "failed") if retry_failed else ():
                self._save(replace(record, report=Scoring()))

    def claim(self, worker: str, trials: int, besides: Collection[str] = (), ascends: bool = False) -> Job | None:
        """Lease the next model to score on the search split: a reference model, a warm start, or a new trial.

        The parameters of a new trial are still to be drawn; see `propose`.

        Args:
            worker: the worker that takes it.
            trials: the number of trials that the search has in all; with 0 only reference models are leased.
            besides: keys of records that this worker does not run again.
            ascends: whether the ascent goes on: a new trial belongs to it, unless another of its trials is running.

        Returns:
            The job, or None if there is none to take now.
        """
        with self._writing():
            self._release_dead("search")
            record = self._next(trials, besides, ascends)
            return self._lease(record, "search", worker) if record else None

    def claim_report(self, worker: str, keys: Sequence[str], besides: Collection[str] = ()) -> Job | None:
        """Lease the first of some models that has no scoring on the report split and that no worker is scoring there.

        Args:
            worker: the worker that takes it.
            keys: the keys of the models' records, in order; models that are run again come after all others.
            besides: keys of records that this worker does not run again.
        """
        return self._claim_first("report", worker, keys, besides)

    def claim_round(self, worker: str, keys: Sequence[str], besides: Collection[str] = ()) -> Job | None:
        """Lease a round of the confirmation: of the first waiting model that has had the fewest rounds.

        A model is ``waiting`` until it has had all rounds. The arguments are those of `claim_report`.
        """
        return self._claim_first("confirm", worker, keys, besides)

    def begin_confirmation(self, plan: Confirmation, split: Split) -> None:
        """Begin the confirmation, unless one has begun; let models that failed in it run again."""
        with self._writing():
            if self.confirmation is None:
                self._keep_splits({**self.splits, "confirm": split}, self.looks.planned)
                self._keep_confirmation(plan)
            for record in self._in_state("confirm", "failed"):
                self._save(replace(record, confirm=next_round(record.on("confirm"))))

    def propose(self, job: Job, proposal: Proposal) -> Job:
        """Store the parameters of a leased trial, which were drawn outside every lock."""
        drawn = _proposed(job.record, proposal)
        self.keep(job, drawn)
        return replace(job, record=drawn)

    def keep(self, job: Job, record: TrialRecord) -> bool:
        """Store a job's record as it now is; return False, and store nothing, if the lease has gone to another worker.

        The model's scorings on other splits stay as they are in the store.
        """
        with self._writing():
            held = self._held(job)
            if held:
                others = {split: getattr(held, split) for split in get_args(SplitName) if split != job.split}
                self._save(replace(record, **others))
            return held is not None

    def release(self, job: Job, reason: str = "", ended: bool = False) -> None:
        """Leave a job to be run again; do nothing if the lease has gone to another worker, or the job is over.

        Args:
            job: the leased job.
            reason: the machine's error; empty if the user stopped the worker.
            ended: whether the job has ended its worker; the second time, the job fails.
        """
        with self._writing():
            if record := self._held(job):
                self._save(record.scored(job.split, _released(record.on(job.split), job.split, reason, ended)))

    def begin_look(self, look: Look, before: Looks) -> None:
        """Begin a look at the report split, unless another worker has begun one since the looks were read."""
        with self._writing():
            if self.looks == before:
                self._add_look(look)

    def give_up(self, job: Job, tries: int) -> None:
        """Let a released job fail if it was tried at least `tries` times."""
        with self._writing():
            record = self._load(job.record.key)
            scoring = record.on(job.split) if record else Scoring()
            if record and scoring.state == "waiting" and len(scoring.tries) >= tries:
                self._save(record.scored(job.split, _failed(scoring, job.split)))

    @abstractmethod
    def changed(self, since: int = 0) -> tuple[Sequence[TrialRecord], int]:
        """Return the records that changed since a revision, by kind and number, and the new revision."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[SplitName, Split]:
        """How the outcomes on each split are read."""

    @property
    @abstractmethod
    def looks(self) -> Looks:
        """The looks at the report split, and their plan."""

    @property
    @abstractmethod
    def confirmation(self) -> Confirmation | None:
        """The confirmation, if one has begun."""

    @property
    @abstractmethod
    def stopped_by(self) -> Stop | None:
        """What stopped the last worker that left; None if its search had ended, or one works, or it was killed."""

    @abstractmethod
    def keep_stop(self, stop: Stop | None) -> None:
        """Keep what has stopped a worker; None when one begins."""

    @abstractmethod
    def sign_in(self) -> AbstractContextManager[str]:
        """Sign in as a worker: the yielded name is at work until the context ends or its process dies."""

    @abstractmethod
    def at_work(self) -> frozenset[str]:
        """Return the names of the live workers."""

    @abstractmethod
    def describe_worker(self, worker: str, place: Workplace, active: Sequence[str], missing: Sequence[str]) -> bool:
        """Store a worker's place and its sandbox's layers.

        Return whether it lacks layers, and not the same ones as an earlier worker.
        """

    @abstractmethod
    def workplaces(self, past: bool = False) -> Mapping[str, Workplace]:
        """Return the places of the live workers that have stored theirs, by name.

        Args:
            past: include workers that are gone.
        """

    @abstractmethod
    def share_drafts(self, entries: Sequence[Draft], since: int = 0) -> tuple[Sequence[Draft], int]:
        """Store drafts; return those that others have added since a position, and the position for the next call."""

    @abstractmethod
    def verdict(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key, if there is one."""

    @abstractmethod
    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Store verdicts by their keys."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """Return a transaction that overlaps no other worker's; an error that leaves it undoes it."""

    @abstractmethod
    def _load(self, key: str) -> TrialRecord | None: ...

    @abstractmethod
    def _save(self, record: TrialRecord) -> None: ...

    @abstractmethod
    def _in_state(self, split: SplitName, state: State) -> Sequence[TrialRecord]:
        """Return the records in a state, by kind and number."""

    @abstractmethod
    def _count(self, kind: Kind) -> int: ...

    @abstractmethod
    def _keep_splits(self, splits: Mapping[SplitName, Split], planned: int) -> None: ...

    @abstractmethod
    def _keep_confirmation(self, plan: Confirmation) -> None: ...

    @abstractmethod
    def _add_look(self, look: Look) -> None: ...

    def _add(self, trials: Sequence[TrialRecord]) -> None:
        known = {frozenset(record.parameters.items()) for record in self.changed()[0]} if trials else set()
        number = self._count("trial")
        for trial in trials:
            point = frozenset(trial.parameters.items())
            if point not in known:
                self._save(replace(trial, number=number))
                known.add(point)
                number += 1

    def _next(self, trials: int, besides: Collection[str], ascends: bool) -> TrialRecord | None:
        every = self._in_state("search", "waiting")
        waiting = [record for record in every if record.key not in besides]
        waiting.sort(key=lambda record: (record.kind == "trial", _has_begun(record)))
        first = waiting[0] if waiting else None
        if first and first.kind != "trial":
            return first
        number = self._count("trial")
        if number - len(every) >= trials:
            return None
        if number >= trials or (first and not _has_begun(first)):
            return first
        ascends = ascends and all(record.proposed_by != ASCENT for record in self._in_state("search", "running"))
        return TrialRecord("trial", number, proposed_by=ASCENT if ascends else "")

    def _claim_first(self, split: SplitName, worker: str, keys: Sequence[str], besides: Collection[str]) -> Job | None:
        def place(record: TrialRecord) -> tuple[int, bool]:
            scoring = record.on(split)
            return len(scoring.outcomes), scoring.started is not None

        with self._writing():
            self._release_dead(split)
            found = [record for record in map(self._load, keys) if record and record.key not in besides]
            waiting = [record for record in found if record.on(split).state == "waiting"]
            record = min(waiting, key=place, default=None)
            return self._lease(record, split, worker) if record else None

    def _lease(self, record: TrialRecord, split: SplitName, worker: str) -> Job:
        leased = replace(record.on(split), state="running", worker=worker, started=time.time())
        record = record.scored(split, leased)
        self._save(record)
        return Job(record, split, worker)

    def _held(self, job: Job) -> TrialRecord | None:
        """Return a job's stored record, if the job's worker still holds the lease."""
        record = self._load(job.record.key)
        scoring = record.on(job.split) if record else Scoring()
        return record if (scoring.state, scoring.worker) == ("running", job.worker) else None

    def _release_dead(self, split: SplitName) -> None:
        running = self._in_state(split, "running")
        alive = self.at_work() if running else frozenset()
        for record in running:
            if record.on(split).worker not in alive:
                # A trial without parameters had not begun, so the worker's death is not its fault.
                begun = record.kind != "trial" or bool(record.parameters) or record.proposed_by == ASCENT
                released = _released(record.on(split), split, DIED if begun else "", ended=begun)
                self._save(record.scored(split, released))


class Records:
    """All records of a store; a read fetches only those that have changed since the last one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, TrialRecord] = {}
        self._revision = 0

    def read(self) -> Sequence[TrialRecord]:
        """Return the records: the parents, their average, then the trials by number."""
        changed, self._revision = self._store.changed(self._revision)
        self._known |= {record.key: record for record in changed}
        return list(self._known.values())


def next_round(scoring: Scoring) -> Scoring:
    """Return a scoring of a confirmation in the state of waiting for its next round."""
    return replace(scoring, state="waiting", started=None, error=None, tries=(), deaths=0)


def _has_begun(record: TrialRecord) -> bool:
    """Whether the scoring of a model ever began. For a trial without parameters it never did."""
    return record.search.started is not None and (record.kind != "trial" or bool(record.parameters))


def _never_finished(tries: Sequence[str], split: SplitName) -> str:
    """Return why a job that never finished has failed: the result of each try."""
    if len(tries) == 1:
        return tries[0]
    again = "confirm" if split == "confirm" else "run --retry-failed"
    return f"was run {len(tries)} times and never finished ({'; '.join(tries)}); {again} runs it again"


def _proposed(record: TrialRecord, proposal: Proposal) -> TrialRecord:
    return replace(
        record,
        parameters=proposal.parameters,
        proposed_by=proposal.proposed_by,
        seen=proposal.seen,
        sampler_notes=proposal.sampler_notes,
    )


def _released(scoring: Scoring, split: SplitName, reason: str, ended: bool) -> Scoring:
    tries = (*scoring.tries, reason) if reason else scoring.tries
    released = replace(scoring, state="waiting", tries=tries, deaths=scoring.deaths + ended)
    return _failed(released, split) if ended and released.deaths >= TRIES else released


def _failed(scoring: Scoring, split: SplitName) -> Scoring:
    return replace(scoring, state="failed", error=_never_finished(scoring.tries, split))
