"""The phases of a search as one worker goes through them: reference models, trials, the report split.

Guarantees: the search uses the report split only to decide whether to end, at looks that are fixed beforehand and paid
for. Any worker may score models on it: those of a look, reference models while others still run trials, and finalists
when no more trials run. A broken machine ends the worker instead of failing one job after another.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from evaluation.generation.out_of_memory import release_unused
from merging import MergingError, Recipe
from search.ascent.ascent import Ascent, AscentOverError
from search.board.leaderboard import Leaderboard
from search.board.names import NAME_WIDTH, displayed_name, parent_names
from search.board.power import parents_discordance, what_is_provable
from search.board.ranking import ranked
from search.board.search_verdict import Splits, last_look, left_to_report, next_look, unscored
from search.callbacks.callback import BegunSearch, Callbacks
from search.errors import STOPS, SearchError
from search.progress import Progress, SearchStatus
from search.pruning import pruners
from search.run.ascending import ascent_of, goes_on, ranking, why_none
from search.run.cores import Cores
from search.run.machine import Machine
from search.run.neighbours import on_machine
from search.run.setup import Session
from search.run.trial import Result, describe, repeat_trial, run_job
from search.stopping import SearchSoFar, ended_by
from search.study.looks import Look, Looks
from search.study.record import ASCENT, TAKEN_OVER, WARM_START, Parameters, SamplerNotes, TrialRecord
from search.study.samplers import Centre, Proposer
from search.study.store import Job, Proposal, Records

_LOG = logging.getLogger("search.worker")


@dataclass
class Phases:
    """The work of one worker.

    Attributes:
        session: the worker's session.
        total: the number of trials that the search has in all.
        deadline: the time, on time.monotonic's clock, after which no job on the search split begins.
        is_stopping: whether no further job is to begin.
        callbacks: called with the result of each model.
        machine: the models at which the machine has failed.
        records: the records of the search.
    """

    session: Session
    total: int
    deadline: float | None
    is_stopping: Callable[[], bool]
    callbacks: Callbacks
    machine: Machine = field(init=False)
    records: Records = field(init=False)

    def __post_init__(self) -> None:
        self.machine = Machine(self.session.bench.folder.log)
        self.records = Records(self.session.store)

    def run(self) -> None:
        """Go through all phases. Raises SearchError."""
        self._progress.watch(self._status)
        self._warm_up()
        self._run_references()
        self._tell_power()
        self._run_trials()
        self._run_reports()
        self.machine.rests()

    def unfinished(self) -> str:
        """Return a sentence on the remaining work that no worker is doing; usually empty."""
        others = self._others_at_trials()  # read first: trials that end in the meantime are counted below
        trials = [record for record in self.records.read() if record.kind == "trial"]
        ended = sum(record.is_over for record in trials)
        if ended + others < self.total and not ended_by(self._so_far, self.session.config.search.stop):
            if not self.session.store.at_work() - {self.session.worker}:
                again = sum(bool(record.search.tries) for record in trials if not record.is_over)
                waiting = f", and {again} could not be finished and will be run again" if again else ""
                return f"{ended} of {self.total} trials are over{waiting}."
            # Other workers are at work, but may be between two trials.
            return f"{ended} of {self.total} trials are over; others work on." if self.is_stopping() else ""
        alive = self.session.store.at_work() - {self.session.worker}
        scorings = [record.on("report") for record in self._unreported()]
        left = 0 if others else sum(it.state == "waiting" or it.worker not in alive for it in scorings)
        models = "1 model waits" if left == 1 else f"{left} models wait"
        return f"The report split is not finished: {models} to be scored on it." if left else ""

    def ended(self) -> str:
        """Return in words the rule by which the search has ended; empty if it has not."""
        return ended_by(replace(self._so_far, is_late=self.is_late), self.session.config.search.stop)

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def leaderboard(self) -> Leaderboard:
        """Return the current leaderboard, which says why the search has ended if it has."""
        store = self.session.store
        found = Leaderboard.of(self.session.bench.folder.name, self.records.read(), store.splits, store.looks)
        return replace(found, unfinished=self.unfinished(), ended=self.ended())

    def begun(self) -> BegunSearch:
        """Return what callbacks are told about the search when the worker begins."""
        session, records = self.session, tuple(self.records.read())
        others = session.store.at_work() - {session.worker}
        over = tuple(it for it in records if it.is_over and not {it.search.worker, it.on("report").worker} & others)
        folder, say = session.bench.folder, self._progress.say
        return BegunSearch(folder, session.config, records, over, self._splits, say)

    @property
    def _so_far(self) -> SearchSoFar:
        return SearchSoFar(self.records.read(), self._splits, self.session.store.looks, self.total)

    @property
    def _progress(self) -> Progress:
        return self.session.bench.progress

    def _warm_up(self) -> None:
        """Before the first trial, compile the code for candidates and compute all that depends only on the parents."""
        bench = self.session.bench
        if not bench.merger.kernels.compiles or self.is_stopping():
            return
        self._progress.begin("compiling", 1)
        try:
            bench.warm_up(self.session.config.space.example())
        except Exception as error:  # of this candidate or of the machine: the trials will tell
            _LOG.warning("warming up: %s", error)

    def _run_references(self) -> None:
        references = [record for record in self.records.read() if record.kind != "trial"]
        left = max(0, self.total - self._over(trials=True))
        self._progress.begin("parents", len(references), self.deadline, left + self._report_trials())
        self._claim_all(0)
        references = [record for record in self.records.read() if record.kind != "trial"]
        parents = [record for record in references if record.kind == "parent"]
        if all(record.is_over for record in references) and all(it.search.state == "failed" for it in parents):
            first = parents[0]
            raise SearchError(
                f"{self.session.config.source}: none of the parents could be scored, so no merge of them could "
                f"be; {first.name}: {first.search.error or ''}"
            )

    def _tell_power(self) -> None:
        problems = self._splits["report"].problems
        discordance = parents_discordance(self.records.read(), self._splits["search"])
        at_end = self.session.store.looks.at_end(self.total, self._over(trials=True))
        if note := what_is_provable(self.session.config, problems, at_end, discordance):
            self._progress.say(note)

    def _run_trials(self) -> None:
        self._begin_search()
        self._claim_all(self.total, self.deadline)
        self._claim_all(0)  # a worker may have died at a reference model meanwhile

    def _begin_search(self) -> None:
        self._progress.begin("search", self.total, self.deadline, self._report_trials())

    def _claim_all(self, trials: int, deadline: float | None = None) -> None:
        session = self.session
        while self._may_begin(deadline):
            # A look takes as long as several trials, so time may be over after it.
            if trials and (self._is_ended() or not self._may_begin(deadline)):
                return
            ascends = trials > 0 and self._ascends()
            job = session.store.claim(session.worker, trials, self.machine.failed, ascends)
            if job is None:
                return
            self._progress.trial(self._name(job.record), self._over(trials=trials > 0))
            self._run(job, partial(self._score, job))

    def _may_begin(self, deadline: float | None) -> bool:
        """Whether another job may begin now."""
        return not self.is_stopping() and (deadline is None or time.monotonic() < deadline)

    def _is_ended(self) -> bool:
        """Whether a stop rule ends the search, after the look at the report split that is due."""
        if self.session.config.search.stop.proven:
            self._begin_look(next_look)
            alive, looked_at = self.session.store.at_work(), self._looked_at()
            left = {
                it.key for it in looked_at if it.on("report").state == "waiting" or it.on("report").worker not in alive
            }
            if left - set(self.machine.failed):
                self._claim_reports(looked_at)
                self._begin_search()
        return bool(ended_by(self._so_far, self.session.config.search.stop))

    def _begin_look(self, due: Callable[[Sequence[TrialRecord], Splits, Looks], Look | None]) -> None:
        looks = self.session.store.looks
        if look := due(self.records.read(), self._splits, looks):
            self.session.store.begin_look(look, looks)

    def _looked_at(self) -> list[TrialRecord]:
        """Return the models that a look needs and whose scoring on the report split is not over."""
        records = self.records.read()
        return [record for look in self.session.store.looks.made for record in unscored(records, look)]

    def _run_reports(self) -> None:
        if self.is_stopping() or not len(self.session.bench.splits["report"]):
            return
        if self._others_at_trials():
            self._claim_reports([record for record in self._unreported() if record.kind != "trial"])
        if self._others_at_trials():
            self._progress.say("another worker is still at its last trial; it will score the finalists")
        else:
            self._begin_look(partial(last_look, count=self.session.config.search.finalists))
            self._claim_reports(self._unreported())

    def _claim_reports(self, records: list[TrialRecord]) -> None:
        session, done = self.session, 0
        self._progress.begin("report split", len(records))
        keys = [record.key for record in records]
        while not self.is_stopping() and (job := session.store.claim_report(session.worker, keys, self.machine.failed)):
            self._progress.trial(self._name(job.record), done)
            recipe = partial(Recipe.from_dict, job.record.recipe, session.config.source)
            self._run(job, partial(run_job, job, recipe, session.bench))
            done += 1

    def _run(self, job: Job, run: Callable[[], Result]) -> None:
        """Run a claimed job; if it cannot be finished, leave it to be run again."""
        store, is_kept = self.session.store, False
        try:
            self._share_cores()
            result = run()
            if result.record:
                is_kept = store.keep(job, result.record)
        except STOPS:
            with contextlib.suppress(SearchError):  # the same broken folder may fail here, too
                store.release(job)
            raise
        if result.record is None:
            store.release(job, result.note, result.device_lost)
        status = self._status()
        self._tell(job, result, status)
        if result.record and is_kept:
            self.callbacks.record(result.record, job.split, status)
        if result.record is None:
            give_up = partial(store.give_up, job)
            name = self._name(job.record)
            self.machine.has_failed(job.record.key, name, result.note, result.device_lost, give_up)
        elif result.seconds and result.record.on(job.split).state != "failed":
            self.machine.has_scored()  # a repeated trial takes no time, and says nothing about the machine

    def _share_cores(self) -> None:
        """Take no more of the machine's cores than each other worker that is on it now."""
        session = self.session
        others = {name: place for name, place in session.store.workplaces().items() if name != session.worker}
        if note := self._cores.share(on_machine(platform.node(), others)):
            self._progress.say(note)

    def _score(self, job: Job) -> Result:
        session, records = self.session, self.records.read()
        if job.record.kind != "trial":
            return run_job(job, partial(Recipe.from_dict, job.record.recipe, session.config.source), session.bench)
        if not job.record.parameters:
            job = session.store.propose(job, self._proposal(job, records))
        if first := _first_alike(records, job.record):
            return repeat_trial(job, first)
        # The recipe is made inside the job, because an invalid one is the trial's failure.
        recipe = partial(session.config.space.recipe_at, job.record.parameters)
        return run_job(
            self._begun(job, recipe), recipe, session.bench, partial(pruners, session.config.search, records)
        )

    def _begun(self, job: Job, recipe: Callable[[], Recipe]) -> Job:
        """Store the recipe of a trial that begins, so that its parameters have names even if its worker dies."""
        try:
            job = replace(job, record=replace(job.record, recipe=recipe().to_dict()))
        except (MergingError, ValueError):
            return job
        self.session.store.keep(job, job.record)
        return job

    def _proposal(self, job: Job, records: Sequence[TrialRecord]) -> Proposal:
        notes: SamplerNotes = {}
        if job.record.proposed_by == ASCENT and self._can_ascend:
            self._progress.phase("ascending")
            try:
                with self.session.bench.parents.unchanged():
                    return self._ascent.propose(records)
            except STOPS:
                raise
            except Exception as error:  # after any error, the sampler goes on
                cost = error.evaluations if isinstance(error, AscentOverError) else 0
                if not isinstance(error, AscentOverError):
                    _LOG.exception("the ascent failed")
                    release_unused()
                told = "; ".join(filter(None, (describe(error), ranking(records))))
                notes = {ASCENT: {"over": told, "evaluations": cost}}
                self._progress.say(f"the ascent is over: {told}")
        proposal = self._proposer.propose(job.record.number, records, self._centre(records))
        return replace(proposal, sampler_notes={**proposal.sampler_notes, **notes})

    def _ascends(self) -> bool:
        """Whether the ascent goes on."""
        return self._can_ascend and goes_on(self.records.read())

    @cached_property
    def _can_ascend(self) -> bool:
        config = self.session.config
        if reason := why_none(config, self.session.gradient):
            self._progress.say(f"no ascent: {reason}")
        return config.search.ascent is not None and not reason

    @cached_property
    def _ascent(self) -> Ascent:
        return ascent_of(self.session, warm_starts(self.records.read()))

    @cached_property
    def _cores(self) -> Cores:
        return Cores(self.session.bench.evaluator.sandbox, self.session.config.evaluation.workers)

    @cached_property
    def _proposer(self) -> Proposer:
        config, search = self.session.config, self.session.config.search
        space, options = config.space.distributions(), search.sampler_options
        return Proposer(search.sampler, search.seed, space, config.objectives, options)

    def _centre(self, records: Sequence[TrialRecord]) -> Centre:
        """Return the start of a sampler that has a centre: the best proposal of the ascent, or a warm start."""
        ascent = self.session.config.search.ascent
        if ascent and (climbed := ranked(it for it in records if it.proposed_by == ASCENT and it.parameters)):
            return Centre(climbed[0].parameters, ascent.step)
        return Centre(next(iter(warm_starts(records)), {}))

    def _tell(self, job: Job, result: Result, status: SearchStatus) -> None:
        scoring = result.record.on(job.split) if result.record else None
        note = result.note.partition("\n")[0]
        if job.split == "report" and scoring and scoring.state == "failed":
            self._progress.say(f"{self._name(job.record)}: not scored on the report split: {result.note}")
            return
        ended = scoring.state if scoring else "to be run again"
        score = scoring.score if scoring else None
        self._progress.scored(score, result.seconds, status, note, ended)

    def _status(self) -> SearchStatus:
        """Return the status of the search."""
        return SearchStatus.of(self.records.read(), self.session.store.workplaces(), self.session.worker)

    def _name(self, record: TrialRecord) -> str:
        """Return the shown name of a running model."""
        return displayed_name(record, self._parent_names)

    @cached_property
    def _splits(self) -> Splits:
        return self.session.store.splits

    @cached_property
    def _parent_names(self) -> dict[str, str]:
        parents = [record.recipe for record in self.records.read() if record.kind == "parent"]
        return parent_names(parents, NAME_WIDTH)

    def _over(self, trials: bool) -> int:
        """Return how many trials (or else reference models) are over."""
        return sum(record.is_over and (record.kind == "trial") is trials for record in self.records.read())

    def _others_at_trials(self) -> int:
        """Return how many trials other live workers are running."""
        others = self.session.store.at_work() - {self.session.worker}
        running = (record.search for record in self.records.read() if record.kind == "trial")
        return sum(scoring.state == "running" and scoring.worker in others for scoring in running)

    def _unreported(self) -> list[TrialRecord]:
        count = self.session.config.search.finalists
        return left_to_report(self.records.read(), self._splits, self.session.store.looks, count)

    def _report_trials(self) -> float:
        """Return how long the report split will take, in trials."""
        splits, search = self.session.bench.splits, self.session.config.search
        references = sum(record.kind != "trial" for record in self.records.read())
        return len(splits["report"]) / len(splits["search"]) * (references + min(search.finalists, self.total))


def warm_starts(records: Iterable[TrialRecord]) -> list[Parameters]:
    """Return the parameters that the search began with: those to try first, then the best one that it took over."""
    given = [record.parameters for record in records if record.proposed_by.startswith(WARM_START)]
    taken_over = (record for record in records if record.proposed_by.startswith(TAKEN_OVER))
    return given + [record.parameters for record in ranked(taken_over)[:1]]


def _first_alike(records: Sequence[TrialRecord], trial: TrialRecord) -> TrialRecord | None:
    """Return the first complete trial with the same parameters, if there is one."""
    complete = (record for record in records if record.kind == "trial" and record.search.state == "complete")
    return next((record for record in complete if record.parameters == trial.parameters), None)
