"""What a tracker adds when it begins: what no worker has told the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search import SearchConfig
from search.callbacks.callback import BegunSearch
from search.callbacks.entries import Entries
from search.callbacks.tracker import Tracker
from search.locks import is_held
from search.progress import SearchStatus
from search.results import ResultsFolder
from search.study.outcomes import Split
from search.study.record import TrialRecord
from search.study.store import next_round
from tests.search.family import Family
from tests.search.records import ON_REPORT, SPLITS, scoring, trial

ROUNDS = {**SPLITS, "confirm": Split(3, problems=ON_REPORT)}


class ListTracker(Tracker):
    """Keeps a run in a list, as the scores of trials by what they are of; if asked, the second of several runs."""

    def __init__(self, second: bool = False) -> None:
        self.second = second
        self.added: list[tuple[int, str]] = []
        self.alone: list[bool] = []

    def place(self) -> str:
        return "list-1" if self.second else super().place()

    def begin(self, run: str | None) -> str:
        return run or "run"

    def add_trial(self, number: int, found: Entries) -> None:
        self.added += [(number, name) for name in found if name.endswith("/score")]
        self.alone.append(is_held(self.search.folder.path / "tracking" / ".lock"))

    def add_reference(self, *_: object) -> None:
        raise AssertionError

    def end(self, *_: object) -> None:
        raise AssertionError


def after(rounds: int) -> TrialRecord:
    """Return a trial that waits for its next round."""
    each = scoring(range(5), ON_REPORT)
    return replace(trial(7, [0], [1]), confirm=next_round(replace(each, outcomes=each.outcomes * rounds)))


def begun(
    records: Sequence[TrialRecord], family: Family, tmp_path: Path, tracker: ListTracker | None = None
) -> ListTracker:
    """Return a tracker of a worker that has begun."""
    tracker, config = tracker or ListTracker(), SearchConfig.load(family.write("tracked.yaml"))
    folder = ResultsFolder(tmp_path, "run")
    tracker.on_begin(BegunSearch(folder, config, tuple(records), tuple(records), ROUNDS, print))
    return tracker


def test_rounds_of_a_confirmation_that_a_worker_could_not_tell_are_added_once(
    shared_family: Family, tmp_path: Path
) -> None:
    scores = [(7, "search/score"), (7, "report/score"), (7, "confirm/score")]
    first = begun([after(1)], shared_family, tmp_path)
    assert first.added == scores
    assert begun([after(1)], shared_family, tmp_path).added == []
    first.on_record(after(2), "confirm", SearchStatus())
    assert begun([after(2)], shared_family, tmp_path).added == []
    assert begun([after(3)], shared_family, tmp_path).added == scores[2:]
    unconfirmed = begun([trial(8, [0])], shared_family, tmp_path)
    assert unconfirmed.added == [(8, "search/score")]


def test_workers_that_begin_at_once_add_one_after_the_other(shared_family: Family, tmp_path: Path) -> None:
    first = begun([trial(7, [0]), trial(8, [0])], shared_family, tmp_path)
    assert first.alone == [True, True]
    first.on_record(trial(9, [0]), "search", SearchStatus())
    assert first.alone == [True, True, False]


def test_a_run_is_not_told_what_another_run_of_the_search_has(shared_family: Family, tmp_path: Path) -> None:
    begun([trial(7, [0])], shared_family, tmp_path)
    records = [trial(7, [0]), trial(8, [0])]
    assert begun(records, shared_family, tmp_path, ListTracker(second=True)).added == [(8, "search/score")]
    assert begun(records, shared_family, tmp_path).added == []
