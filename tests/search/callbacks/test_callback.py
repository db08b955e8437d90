"""Callbacks are told of each scoring once, and end no search."""

from __future__ import annotations

from pathlib import Path

from search import Callback, Leaderboard, SearchConfig, run_search
from search.callbacks.callback import BegunSearch
from search.progress import SearchStatus
from search.study.record import SplitName, TrialRecord
from tests.search.jobs import forget_reports
from tests.search.told import Phases


class Remembers(Callback):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[BegunSearch] = []
        self.told: list[tuple[str, SplitName, float | None, float | None]] = []
        self.ended: list[Leaderboard] = []

    def on_begin(self, search: BegunSearch) -> None:
        self.begun.append(search)

    def on_record(self, record: TrialRecord, split: SplitName, status: SearchStatus) -> None:
        best = status.best.search.score if status.best else None
        self.told.append((record.key, split, record.on(split).score, best))

    def on_end(self, leaderboard: Leaderboard) -> None:
        self.ended.append(leaderboard)


class Breaks(Callback):
    """Fails at the first model."""

    def __init__(self) -> None:
        self.calls = 0

    def on_record(self, *_: object) -> None:
        self.calls += 1
        raise ConnectionError("the tracker is gone\nfor good")


def test_callbacks_hear_of_each_scoring_once_and_one_that_raises_is_switched_off(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    forget_reports(out)
    hears, breaks, progress = Remembers(), Breaks(), Phases()
    found = run_search(config, out, trials=2, progress=progress, callbacks=[breaks, hears])

    (begun,) = hears.begun
    assert (begun.folder.path, begun.config.source) == (out, config.source)
    assert [record.key for record in begun.over] == ["parent-0", "parent-1", "parent-2", "average", "trial-0"]
    scored = {(row.record.key, "report"): row.record.on("report").score for row in found.rows}
    scored["trial-1", "search"] = next(it.search.score for it in found.trials if it.number == 1)
    assert {(key, split): score for key, split, score, _ in hears.told} == scored
    assert len(hears.told) == len(scored)
    assert hears.told[-1][3] == max(it.search.score or 0 for it in found.trials)
    assert [(board.verdict, board.ended) for board in hears.ended] == [(found.verdict, found.ended)]

    assert breaks.calls == 1
    line = "Breaks failed and is told nothing more; the search goes on: ConnectionError: the tracker is gone"
    assert line in progress.said
    assert "for good" in (out / "worker.log").read_text()
