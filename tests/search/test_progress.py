"""How a search stands is a function of its records."""

from __future__ import annotations

from dataclasses import replace

from search.progress import SearchStatus, WorkerStatus
from search.study.record import ASCENT, Scoring, State, TrialRecord
from search.study.store import Workplace
from tests.search.records import RECORDS, trial

HERE = Workplace("here", {"cpu": ""})


def complete(worker: str, started: float, tokens: int, accepted: int = 0) -> Scoring:
    """Return a scoring that a worker has ended, in two seconds of generation."""
    return Scoring(
        "complete", score=0.5, seconds={"generation": 2.0}, tokens=tokens, guessed=10, accepted=accepted,
        worker=worker, started=started,
    )  # fmt: skip


def test_it_names_the_best_counts_how_trials_ended_and_keeps_their_scores() -> None:
    others: list[State] = ["pruned", "failed", "failed", "waiting"]
    more = [TrialRecord("trial", 9 + place, search=Scoring(state)) for place, state in enumerate(others)]
    status = SearchStatus.of([*reversed(more), *RECORDS, trial(8, {1}, proposed_by=ASCENT)])
    assert (status.best, status.best_parent) == (RECORDS[5], RECORDS[1])
    assert (status.complete, status.pruned, status.failed, status.ascended) == (4, 1, 3, 1)
    assert status.history == (0.5, 0.8, None, 0.2, 0.1, None, None, None)
    assert status.workers == ()


def test_of_nothing_there_is_nothing_to_say() -> None:
    status = SearchStatus.of([TrialRecord("trial")], {"w": HERE}, "w")
    assert status == SearchStatus(workers=(WorkerStatus("w", HERE, is_own=True),))
    assert (status.tokens_per_second, status.acceptance) == (None, None)


def test_it_says_who_of_the_living_runs_what_since_when_and_how_fast() -> None:
    running = TrialRecord("trial", 5, search=Scoring("running", worker="b", started=30.0))
    on_report = replace(trial(4, {1}), report=Scoring("running", worker="a", started=40.0))
    records = [
        trial(0, {1}, search=complete("a", 10.0, 200, 9)),
        trial(1, {1}, search=complete("a", 20.0, 100, 6)),
        trial(2, {1}, search=complete("b", 15.0, 500, 8)),
        trial(3, {1}, search=replace(complete("b", 25.0, 900), seconds={"total": 0.0})),  # what was taken over
        on_report,
        running,
        TrialRecord("trial", 6, search=Scoring("running", worker="dead", started=1.0)),
    ]
    status = SearchStatus.of(records, {"b": HERE, "a": HERE}, "b")
    first, second = status.workers
    assert first == WorkerStatus("a", HERE, on_report, 40.0, records[1].search)
    assert second == WorkerStatus("b", HERE, running, 30.0, records[2].search, is_own=True)
    assert (status.tokens_per_second, status.acceptance) == (300.0, 0.7)
