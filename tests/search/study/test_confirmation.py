"""Every store leases the rounds of a confirmation as it leases all jobs: to one worker, and none for ever."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from search.study.confirmation import Confirmation
from search.study.looks import Look
from search.study.outcomes import Split
from search.study.record import Scoring
from search.study.store import Job, Store, next_round
from tests.search.study import test_store
from tests.search.study.test_store import PARENTS, Cluster, begin, claimed, finish, records, take

cluster, store, worker = test_store.cluster, test_store.store, test_store.worker  # fixtures: both stores
PLAN = Confirmation((0,), ("mbpp+",), ("a", "b"), "digest", 0.2, 1.0, 7)
KEYS = ["parent-0", "parent-1", "trial-0"]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def confirming(store: Store, worker: str) -> Store:
    """Return a store whose search is over, and whose confirmation in two rounds has begun."""
    store.begin(PARENTS, splits={"search": Split(problems=2), "report": Split(problems=1)}, planned=9)
    for value in (0.1, 0.2, 0.3):
        finish(store, take(store, worker, value=value))
    store.begin_look(Look(None, 0.02, (0,)), store.looks)
    store.begin_confirmation(PLAN, Split(2, (), 2))
    return store


def end_round(store: Store, job: Job) -> None:
    before = job.record.on("confirm")
    after = replace(before, state="complete", outcomes=before.outcomes + "pf")
    assert store.keep(job, job.record.scored("confirm", after if len(after.outcomes) == 4 else next_round(after)))


def test_a_confirmation_is_kept_and_begun_once(confirming: Store, cluster: Cluster) -> None:
    other = cluster.store()
    other.begin_confirmation(replace(PLAN, seed=8), Split(5, (), 9))
    assert other.confirmation == PLAN
    assert other.splits["confirm"] == Split(2, (), 2)
    assert (other.splits["report"], other.looks.planned) == (Split(problems=1), 9)
    look = Look(None, 0.004, (0,), 1)
    other.begin_look(look, other.looks)
    assert confirming.looks.made == (Look(None, 0.02, (0,)), look)


def test_a_confirmation_survives_json() -> None:
    assert Confirmation.restored(json.loads(json.dumps(asdict(PLAN)))) == PLAN


def test_each_round_draws_from_a_seed_of_its_own() -> None:
    seeds = [PLAN.sampling(number).seed for number in range(1, 20)]
    assert len(set(seeds)) == len(seeds)
    assert replace(PLAN, seed=8).sampling(1).seed not in seeds
    assert (PLAN.sampling(1).temperature, PLAN.sampling(1).samples) == (0.2, 1)


def test_models_take_turns_whoever_scores_them(
    confirming: Store,
    cluster: Cluster,
    worker: str,
) -> None:
    other = cluster.store()
    theirs = cluster.worker(other)
    order = []
    for _ in range(3):
        jobs = [claimed(confirming.claim_round(worker, KEYS)), claimed(other.claim_round(theirs, KEYS))]
        order += [job.record.key for job in jobs]
        end_round(confirming, jobs[0])
        end_round(other, jobs[1])
    assert order == [*KEYS, *KEYS]
    assert confirming.claim_round(worker, KEYS) is None
    found = records(confirming)
    assert {found[key].on("confirm").state for key in KEYS} == {"complete"}
    assert {found[key].on("confirm").outcomes for key in KEYS} == {"pfpf"}
    assert found["parent-0"].search.score == 0.5


def test_a_killed_worker_costs_one_round_which_is_run_after_the_others(
    confirming: Store,
    cluster: Cluster,
    worker: str,
) -> None:
    for _ in KEYS:
        end_round(confirming, claimed(confirming.claim_round(worker, KEYS)))
    cluster.die(lambda store, worker: store.claim_round(worker, KEYS))
    order = []
    for _ in KEYS:
        job = claimed(confirming.claim_round(worker, KEYS))
        assert job.record.on("confirm").outcomes == "pf"
        order.append(job.record.key)
        end_round(confirming, job)
    assert order == ["parent-1", "trial-0", "parent-0"]


def test_a_round_that_kills_its_workers_fails_and_keeps_those_before(
    confirming: Store,
    cluster: Cluster,
    worker: str,
) -> None:
    end_round(confirming, claimed(confirming.claim_round(worker, ["trial-0"])))
    for _ in range(2):
        cluster.die(lambda store, worker: store.claim_round(worker, ["trial-0"]))
    assert confirming.claim_round(worker, ["trial-0"]) is None
    failed = records(confirming)["trial-0"].on("confirm")
    assert (failed.state, failed.outcomes) == ("failed", "pf")
    confirming.begin_confirmation(PLAN, Split(2, (), 2))
    again = claimed(confirming.claim_round(worker, ["trial-0"]))
    assert again.record.on("confirm") == Scoring(
        "running", "pf", worker=worker, started=again.record.on("confirm").started
    )


def test_what_ends_on_one_split_leaves_the_others_alone(confirming: Store, worker: str) -> None:
    reporting = claimed(confirming.claim_report(worker, ["parent-0"]))
    round_ = claimed(confirming.claim_round(worker, ["parent-0"]))
    end_round(confirming, round_)
    reported = replace(reporting.record.on("report"), state="complete", outcomes="p", score=1.0)
    assert confirming.keep(reporting, reporting.record.scored("report", reported))
    assert records(confirming)["parent-0"].on("confirm").outcomes == "pf"
    round_ = claimed(confirming.claim_round(worker, ["parent-0"]))
    confirming.release(claimed(confirming.claim_report(worker, ["parent-1"])))
    end_round(confirming, round_)
    assert records(confirming)["parent-0"].on("report") == reported


def test_a_round_that_was_stopped_is_not_held_against_its_model(confirming: Store, worker: str) -> None:
    for _ in range(3):
        confirming.release(claimed(confirming.claim_round(worker, ["trial-0"])))
    assert records(confirming)["trial-0"].on("confirm").tries == ()


def test_a_search_without_a_confirmation_has_none(store: Store, worker: str) -> None:
    begin(store, PARENTS)
    finish(store, take(store, worker))
    assert store.confirmation is None
    assert records(store)["parent-0"].confirm is None
