"""Every store leases a job to one worker, loses none, and runs none for ever."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from evaluation import Draft, Verdict
from search.run.ascending import goes_on
from search.study.local_store import LocalStore
from search.study.looks import ALPHA, Look, Looks
from search.study.outcomes import Split
from search.study.record import ASCENT, Scoring, TrialRecord
from search.study.store import Job, Proposal, Records, Stop, Store, Workplace
from tests.search.study.memory_store import LEASE_SECONDS, MemoryStore

PARENTS = (TrialRecord("parent", 0, "a", recipe={"merge_method": "linear"}), TrialRecord("parent", 1, "b"))
REFERENCES = (*PARENTS, TrialRecord("average", name="average"))
PLACE = Workplace("host", {"cpu": ""})
DONE = Scoring("complete", "pf", 0.5, (0.5,), -1.25, {"total": 1.0}, 7)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Cluster(ABC):
    """Stores on the same shared state, and workers that may die at any time."""

    def __init__(self) -> None:
        self._open = ExitStack()

    @abstractmethod
    def store(self) -> Store:
        """Return a store of another process."""

    @abstractmethod
    def die(self, act: Callable[[Store, str], object]) -> None:
        """Let a worker do something, and die."""

    def worker(self, store: Store) -> str:
        """Return a worker that lives until the test ends."""
        return self._open.enter_context(store.sign_in())

    def close(self) -> None:
        self._open.close()


class Local(Cluster):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        LocalStore.create(folder, "run", {}).close()

    def store(self) -> Store:
        return self._open.enter_context(contextlib.closing(LocalStore(self._folder)))

    def die(self, act: Callable[[Store, str], object]) -> None:
        child = os.fork()
        if child == 0:
            try:
                store = LocalStore(self._folder)
                with store.sign_in() as worker:
                    act(store, worker)
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class Memory(Cluster):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._store = MemoryStore(lambda: self.now)
        self._living: list[str] = []

    def store(self) -> Store:
        return self._store

    def worker(self, store: Store) -> str:
        self._living.append(super().worker(store))
        return self._living[-1]

    def die(self, act: Callable[[Store, str], object]) -> None:
        act(self._store, self._open.enter_context(self._store.sign_in()))
        self.now += LEASE_SECONDS
        for worker in self._living:
            self._store.renew(worker)


@pytest.fixture(params=["local", "memory"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    found = Local(tmp_path) if request.param == "local" else Memory()
    yield found
    found.close()


@pytest.fixture
def store(cluster: Cluster) -> Store:
    return cluster.store()


@pytest.fixture
def worker(cluster: Cluster, store: Store) -> str:
    return cluster.worker(store)


def begin(store: Store, references: tuple[TrialRecord, ...] = ()) -> None:
    store.begin(references)


def claimed(job: Job | None) -> Job:
    assert job
    return job


def draw(store: Store, job: Job, value: float = 0.5) -> Job:
    return store.propose(job, Proposal({"density": value}, "tpe", 3, {"generation": 1}))


def finish(store: Store, job: Job, scoring: Scoring = DONE) -> bool:
    own = job.record.on(job.split)
    return store.keep(
        job, job.record.scored(job.split, replace(scoring, worker=own.worker, started=own.started, tries=own.tries))
    )


def take(store: Store, worker: str, trials: int = 9, value: float = 0.5) -> Job:
    job = claimed(store.claim(worker, trials))
    return job if job.record.parameters or job.record.kind != "trial" else draw(store, job, value)


def records(store: Store) -> dict[str, TrialRecord]:
    return {record.key: record for record in store.changed()[0]}


def test_the_references_are_leased_first_and_once(cluster: Cluster) -> None:
    one, other = cluster.store(), cluster.store()
    for store in (one, other):
        begin(store, REFERENCES)
    workers = [(one, cluster.worker(one)), (other, cluster.worker(other))]
    taken = [claimed(store.claim(worker, 0)).record for store, worker in [*workers, workers[0]]]
    assert [record.key for record in taken] == ["parent-0", "parent-1", "average"]
    assert [record.name for record in taken] == ["a", "b", "average"]
    assert taken[0].recipe == {"merge_method": "linear"}
    assert one.claim(workers[0][1], 0) is None
    assert claimed(other.claim(workers[1][1], 1)).record.key == "trial-0"


def test_workers_together_take_as_many_trials_as_were_asked_for(cluster: Cluster) -> None:
    stores = [cluster.store() for _ in range(2)]
    workers = [(store, cluster.worker(store)) for store in stores]
    found = [store.claim(worker, 3) for store, worker in workers * 3]
    assert [job and job.record.number for job in found] == [0, 1, 2, None, None, None]


def test_a_record_is_kept_as_it_was_finished(store: Store, worker: str) -> None:
    job = take(store, worker)
    record = replace(
        job.record.scored("search", DONE), recipe={"models": [{"model": "a"}]}, end_tokens=(1, 2), same_as=4
    )
    assert store.keep(job, record)
    assert records(store) == {"trial-0": record}
    assert record.parameters == {"density": 0.5}
    assert (record.proposed_by, record.seen, record.sampler_notes) == ("tpe", 3, {"generation": 1})


def test_what_has_changed_since_a_revision_is_all_that_is_read(store: Store, worker: str) -> None:
    begin(store, REFERENCES)
    all_of_them, first = store.changed()
    assert [record.key for record in all_of_them] == ["parent-0", "parent-1", "average"]
    assert store.changed(first) == ([], first)
    job = take(store, worker)
    claimed_only, second = store.changed(first)
    assert [(record.key, record.search.state, record.search.worker) for record in claimed_only] == [
        ("parent-0", "running", worker)
    ]
    finish(store, job)
    [finished], _ = store.changed(second)
    assert (finished.key, finished.search.score) == ("parent-0", 0.5)


def test_records_are_up_to_date_and_in_order(store: Store, worker: str) -> None:
    known = Records(store)
    assert known.read() == []
    begin(store, REFERENCES)
    jobs = [take(store, worker) for _ in range(5)]
    keys = ["parent-0", "parent-1", "average", "trial-0", "trial-1"]
    assert [record.key for record in known.read()] == keys
    finish(store, jobs[3])
    assert [record.key for record in known.read()] == keys
    assert [record.search.state for record in known.read()][3:] == ["complete", "running"]


def test_a_job_of_a_worker_that_lives_is_left_to_it(cluster: Cluster, store: Store, worker: str) -> None:
    take(store, worker)
    other = cluster.store()
    assert other.claim(cluster.worker(other), 1) is None


def test_a_job_whose_worker_died_is_run_again_under_its_number_and_with_its_parameters(
    cluster: Cluster, store: Store, worker: str
) -> None:
    cluster.die(take)
    again = claimed(store.claim(worker, 1))
    assert (again.record.key, again.record.parameters) == ("trial-0", {"density": 0.5})
    assert again.record.search.tries == ("its worker died",)
    finish(store, again)
    assert store.claim(worker, 1) is None
    assert records(store)["trial-0"].search.state == "complete"


def test_a_trial_whose_worker_died_before_it_had_parameters_had_not_begun(
    cluster: Cluster, store: Store, worker: str
) -> None:
    for _ in range(3):
        cluster.die(lambda store, worker: store.claim(worker, 1))
    again = claimed(store.claim(worker, 1)).record
    assert (again.number, again.parameters, again.search.tries) == (0, {}, ())


def test_a_job_that_ended_two_workers_fails_with_that_reason(cluster: Cluster, store: Store, worker: str) -> None:
    for _ in range(2):
        cluster.die(lambda store, worker: take(store, worker, 1))
    assert store.claim(worker, 1) is None
    failed = records(store)["trial-0"].search
    assert failed.state == "failed"
    assert failed.error == (
        "was run 2 times and never finished (its worker died; its worker died); run --retry-failed runs it again"
    )


def test_a_reference_whose_worker_died_is_taken_by_one_that_lives(cluster: Cluster, store: Store, worker: str) -> None:
    begin(store, PARENTS)
    cluster.die(take)
    keys = [claimed(store.claim(worker, 9)).record.key for _ in range(3)]
    assert keys == ["parent-1", "parent-0", "trial-0"]


def test_what_is_run_again_waits_for_all_others(cluster: Cluster, store: Store, worker: str) -> None:
    cluster.die(lambda store, worker: take(store, worker, value=0.1))
    numbers = [take(store, worker, 4).record.number for _ in range(4)]
    assert numbers == [1, 2, 3, 0]
    assert store.claim(worker, 4) is None


def test_a_lease_that_has_gone_to_another_keeps_nothing(cluster: Cluster, store: Store, worker: str) -> None:
    lost: list[Job] = []
    with cluster.store().sign_in() as late:
        lost.append(take(store, late))
    again = claimed(store.claim(worker, 1))
    store.release(lost[0], "too late")
    assert not finish(store, lost[0], replace(DONE, score=0.1))
    assert finish(store, again)
    assert not finish(store, lost[0], replace(DONE, score=0.1))
    assert records(store)["trial-0"].search.score == 0.5


def test_a_job_that_a_person_stopped_is_run_again_as_if_nothing_had_been(store: Store, worker: str) -> None:
    for _ in range(4):
        store.release(take(store, worker, 1))
    assert claimed(store.claim(worker, 1)).record.search.tries == ()


def test_a_job_that_the_machine_failed_at_is_run_again_and_says_why(store: Store, worker: str) -> None:
    for reason in ("a bus error", "an I/O error"):
        store.release(take(store, worker, 1), reason)
    job = claimed(store.claim(worker, 1))
    assert job.record.search.tries == ("a bus error", "an I/O error")
    store.release(job, "a lost device", ended=True)
    job = claimed(store.claim(worker, 1))
    store.release(job, "a lost device", ended=True)
    assert store.claim(worker, 1) is None
    assert "was run 4 times and never finished (a bus error; an I/O" in (records(store)["trial-0"].search.error or "")


def test_a_worker_does_not_run_again_what_it_is_told_to_leave(cluster: Cluster, store: Store, worker: str) -> None:
    begin(store, PARENTS)
    failed = [take(store, worker) for _ in range(3)]
    for job in failed:
        store.release(job, "a bus error")
    keys = {job.record.key for job in failed}
    assert claimed(store.claim(worker, 2, keys)).record.key == "trial-1"
    assert store.claim(worker, 2, keys) is None
    assert claimed(store.claim(cluster.worker(store), 2)).record.key == "parent-0"


def test_what_was_tried_in_vain_may_be_given_up(store: Store, worker: str) -> None:
    job = take(store, worker, 1)
    store.release(job, "a bus error")
    store.give_up(job, 2)
    assert records(store)["trial-0"].search.state == "waiting"
    store.release(take(store, worker, 1), "a bus error")
    store.give_up(job, 2)
    assert records(store)["trial-0"].search.state == "failed"
    store.give_up(job, 0)
    assert store.claim(worker, 1) is None


def test_all_that_failed_is_run_again_where_that_is_asked_for(store: Store, worker: str) -> None:
    begin(store, PARENTS)
    for state in ("complete", "failed", "failed", "pruned"):
        finish(store, take(store, worker), Scoring(state, error="NaN", tries=("x",), deaths=1))
    store.begin((), retry_failed=True)
    found = records(store)
    states = [found[key].search.state for key in ("parent-0", "parent-1", "trial-0", "trial-1")]
    assert states == ["complete", "waiting", "waiting", "pruned"]
    assert all(
        (it.search.tries, it.search.error, it.search.deaths) == ((), None, 0) for it in found.values() if not it.is_over
    )
    assert found["trial-0"].parameters == {"density": 0.5}
    again = [take(store, worker, 3).record.key for _ in range(3)]
    assert again == ["parent-1", "trial-2", "trial-0"]


def test_a_parent_that_failed_is_run_once_more_at_the_next_start_and_not_at_every_one(
    store: Store, worker: str
) -> None:
    begin(store, PARENTS)
    runs = []
    for _ in range(4):
        store.begin(PARENTS)
        while job := store.claim(worker, 0):
            runs.append(job.record.key)
            finish(store, job, DONE if job.record.number else Scoring("failed", error="NaN"))
    assert runs == ["parent-0", "parent-1", "parent-0"]


def test_warm_starts_are_run_first_and_one_that_is_known_is_not_added(store: Store, worker: str) -> None:
    first = Proposal({"density": 0.1}, "warm start")
    store.begin((), [first])
    store.begin((), [first])
    jobs = [claimed(store.claim(worker, 3)) for _ in range(2)]
    assert [(job.record.number, job.record.parameters) for job in jobs] == [(0, first.parameters), (1, {})]
    assert jobs[0].record.proposed_by == "warm start"
    draw(store, jobs[1], 0.3)
    store.begin((), [first, Proposal({"density": 0.3}, "warm start"), Proposal({"density": 0.7}, "warm start")])
    later = claimed(store.claim(worker, 3)).record
    assert (later.number, later.parameters) == (2, {"density": 0.7})
    assert store.claim(worker, 3) is None


def test_one_worker_at_a_time_ascends_and_others_sample(store: Store, worker: str) -> None:
    jobs = [store.claim(worker, 5, ascends=True) for _ in range(2)]
    assert [job.record.proposed_by for job in jobs if job] == [ASCENT, ""]
    first = jobs[0]
    assert first
    store.keep(first, replace(first.record, search=DONE))
    third = store.claim(worker, 5, ascends=True)
    assert third
    assert (third.record.number, third.record.proposed_by) == (2, ASCENT)


def test_an_ascent_whose_worker_died_goes_on_elsewhere_before_other_trials(
    cluster: Cluster, store: Store, worker: str
) -> None:
    cluster.die(lambda shared, dead: shared.claim(dead, 5, ascends=True))
    again = claimed(store.claim(worker, 5, ascends=True))
    assert (again.record.number, again.record.proposed_by) == (0, ASCENT)
    assert claimed(store.claim(worker, 5, ascends=True)).record.proposed_by == ""


def test_an_ascent_that_ended_two_workers_is_over(cluster: Cluster, store: Store, worker: str) -> None:
    for _ in range(2):
        assert goes_on(store.changed()[0])
        cluster.die(lambda shared, dead: shared.claim(dead, 5, ascends=True))
    other = claimed(store.claim(worker, 5))
    assert other.record.number == 1
    assert records(store)["trial-0"].search.state == "failed"
    assert not goes_on(store.changed()[0])


def test_a_proposal_whose_scoring_died_does_not_hold_up_the_ascent(cluster: Cluster, store: Store, worker: str) -> None:
    cluster.die(lambda shared, dead: draw(shared, claimed(shared.claim(dead, 5, ascends=True))))
    following = claimed(store.claim(worker, 5, ascends=True))
    assert (following.record.number, following.record.proposed_by) == (1, ASCENT)


def test_a_report_is_leased_to_any_worker_and_once(cluster: Cluster) -> None:
    one, other = cluster.store(), cluster.store()
    begin(one, PARENTS)
    mine, theirs = cluster.worker(one), cluster.worker(other)
    for _ in range(3):
        finish(one, take(one, mine))
    keys = ["parent-1", "trial-0", "parent-0"]
    jobs = [claimed(other.claim_report(theirs, keys)), claimed(one.claim_report(mine, keys))]
    assert [(job.record.key, job.split) for job in jobs] == [("parent-1", "report"), ("trial-0", "report")]
    assert jobs[0].record.search.score == 0.5
    assert finish(other, jobs[0], replace(DONE, outcomes="pp", score=1.0))
    last = claimed(other.claim_report(theirs, keys))
    assert last.record.key == "parent-0"
    assert one.claim_report(mine, keys) is None
    found = records(one)
    assert (found["parent-1"].search.score, found["parent-1"].on("report").score) == (0.5, 1.0)
    assert found["trial-0"].on("report").worker == mine


def test_a_report_that_ends_its_workers_is_given_up(cluster: Cluster, store: Store, worker: str) -> None:
    for _ in range(2):
        finish(store, take(store, worker, 2))
    keys = ["trial-0", "trial-1"]
    for _ in range(2):
        cluster.die(lambda store, worker: store.claim_report(worker, ["trial-0"]))
    assert claimed(store.claim_report(worker, keys)).record.key == "trial-1"
    assert store.claim_report(worker, keys) is None
    failed = records(store)["trial-0"]
    assert (failed.search.state, failed.on("report").state) == ("complete", "failed")
    store.begin((), retry_failed=True)
    assert claimed(store.claim_report(worker, keys)).record.key == "trial-0"


def test_a_report_that_is_run_again_waits_for_all_others(store: Store, worker: str) -> None:
    for _ in range(2):
        finish(store, take(store, worker, 2))
    keys = ["trial-0", "trial-1"]
    store.release(claimed(store.claim_report(worker, keys)), "a bus error")
    assert [claimed(store.claim_report(worker, keys)).record.key for _ in keys] == ["trial-1", "trial-0"]


def test_workers_are_at_work_until_they_sign_out_or_die(cluster: Cluster, store: Store, worker: str) -> None:
    with store.sign_in() as other:
        assert cluster.store().at_work() == {worker, other}
    assert store.at_work() == {worker}
    cluster.die(lambda *_: None)
    assert cluster.store().at_work() == {worker}


@pytest.mark.parametrize("stop", [*get_args(Stop), None])
def test_what_stopped_a_worker_is_kept_until_the_next_one_begins(cluster: Cluster, stop: Stop | None) -> None:
    assert cluster.store().stopped_by is None
    for last in ("time", stop):
        cluster.store().keep_stop(last)
        assert cluster.store().stopped_by == last


def test_layers_that_no_worker_lacked_before_are_news(store: Store, worker: str) -> None:
    assert not store.describe_worker(worker, PLACE, ["rlimits"], [])
    assert store.describe_worker("another", PLACE, ["rlimits"], ["bubblewrap"])
    assert not store.describe_worker("a third", PLACE, ["rlimits"], ["bubblewrap"])
    assert store.describe_worker("a fourth", PLACE, [], ["bubblewrap", "landlock"])


def test_where_workers_are_is_known_as_long_as_they_live(cluster: Cluster, store: Store, worker: str) -> None:
    card = Workplace("host", {"cuda:3": "8f3a"})
    store.describe_worker(worker, PLACE, [], [])
    with store.sign_in() as other, store.sign_in():
        store.describe_worker(other, card, [], [])
        assert cluster.store().workplaces() == {worker: PLACE, other: card}
    cluster.die(lambda its_store, dead: its_store.describe_worker(dead, card, [], []))
    assert cluster.store().workplaces() == {worker: PLACE}


def test_how_splits_are_read_is_kept_from_the_begin(store: Store) -> None:
    assert store.splits == {}
    splits = {"search": Split(2, (("one", 1.0, 3), ("two", 0.5, 4))), "report": Split()}
    store.begin((), splits=splits)  # type: ignore[arg-type]
    store.begin((), splits={"search": Split(7)})
    assert store.splits == splits


def test_what_earlier_looks_have_spent_is_spent_here(store: Store) -> None:
    for _ in range(2):
        store.begin((), splits={"search": Split(), "report": Split()}, planned=40, spent=0.02)
    assert store.looks.left == pytest.approx(ALPHA - 0.02)


def test_looks_are_kept_and_begun_by_one_worker(cluster: Cluster) -> None:
    one, other = cluster.store(), cluster.store()
    one.begin((), splits={"search": Split()}, planned=40)
    other.begin((), splits={"search": Split()}, planned=500)
    before = one.looks
    assert before == Looks(40)
    look, late = Look(4, 0.005, (3,)), Look(10, 0.005, (3, 1))
    one.begin_look(look, before)
    other.begin_look(late, before)  # which has not seen the first
    assert other.looks == Looks(40, (look,))
    other.begin_look(Look(None, 0.0125, (2, 7)), other.looks)
    assert one.looks == Looks(40, (look, Look(None, 0.0125, (2, 7))))


def test_drafts_are_shared_and_each_is_read_once(cluster: Cluster) -> None:
    one, other = cluster.store(), cluster.store()
    parents, mine = Draft("p", (1, 2), parent=True, passed=True), Draft("p", (3,))
    assert one.share_drafts([parents]) == ([], 1)
    found, place = other.share_drafts([mine])
    assert found == [parents]
    assert one.share_drafts([], 1) == ([mine], place)
    assert one.share_drafts([], place) == ([], place)


def test_verdicts_are_found_by_their_keys(cluster: Cluster) -> None:
    one, other = cluster.store(), cluster.store()
    one.add_verdicts({b"a": Verdict("passed", ""), b"b": Verdict("failed", "AssertionError")})
    other.add_verdicts({b"a": Verdict("passed", "")})
    assert [other.verdict(key) for key in (b"a", b"b", b"c")] == [
        Verdict("passed", ""), Verdict("failed", "AssertionError"), None,
    ]  # fmt: skip


def test_a_lease_in_memory_lasts_as_long_as_its_worker_is_heard_of() -> None:
    now = [0.0]
    store = MemoryStore(lambda: now[0])
    with store.sign_in() as quiet, store.sign_in() as loud:
        for worker in (quiet, loud):
            take(store, worker, 2)
        now[0] = 0.9 * LEASE_SECONDS
        store.renew(loud)
        assert store.claim(loud, 2) is None
        now[0] = 1.1 * LEASE_SECONDS
        assert claimed(store.claim(loud, 2)).record.number == 0
