"""The leaderboard: every trial and every parent, with the evidence for its score. Read from the storage alone.

Guarantees: can be read while a search runs; the best is chosen by the search split, so that its score on the report
split is an unbiased one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState

from evaluation.scoring import interval, paired_test, weighted_mean
from search.database import storage_errors
from search.numbers import LABEL_WIDTH, number_lines, parent_names
from search.outcomes import Split
from search.progress import shorten
from search.reruns import ERROR
from search.results import ResultsFolder
from search.study import (
    ENDS,
    KIND,
    LIKELIHOOD,
    NAME,
    OUTCOMES,
    RECIPE,
    SAME_AS,
    SECONDS,
    NothingYet,
    Studies,
    quiet,
    score,
)

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["complete", "pruned", "failed"]
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


# From this width on there is room for the numbers, beside what the other columns and the gaps take.
_WIDE, _OTHER_COLUMNS = 120, 54
_LEAST_NAME = 26
_SET_WIDTH = 16
_BEST_PARENT = " (best parent)"
_ON_FRONT = " (Pareto)"
_JSON_KEYS = (
    "kind", "name", "trial", "state", "search_score", "search_scores", "log_likelihood", "report_score",
    "report_interval", "report_scores", "won", "lost", "p_value", "seconds", "recipe", "on_front",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        kind: parent, baseline (the parents' average) or trial.
        name: the parent's reference, or ``trial N``.
        trial: its number; the parents and their average have the first ones.
        state: how the trial ended; ``pruned`` if its references were too unlikely.
        search_score: pass@1 on the search split, of several sets their mean by weight; None if it failed.
        search_scores, report_scores: of several sets, pass@1 of each on either split.
        log_likelihood: of what the parents passed problems of that split with, in nats a token, as far as known; of
            equal scores the higher one is first.
        report_score: pass@1 on the report split, for finalists and parents.
        report_interval: its 95% interval (Wilson's, where each problem has one sample and there is one set).
        won, lost: problems that only it, or only the best parent, passes (of several samples: passes more often); on
            the split that `compared_on` names.
        p_value: exact McNemar test against the best parent, on the report split.
        seconds: of merging, writing and scoring.
        recipe: the merge.
        numbers: of these, what was searched, by key.
        on_front: where each set's score is an objective of its own, whether no trial is better in one of them and as
            good in the others (the Pareto front); None in a search with a single objective.
        same_as: the number of the trial of the same merge whose outcomes these are, or None.
        error: why it failed; or what is wrong with a model that has a score all the same.
        end_tokens: the ids that ended what it wrote.
    """

    kind: Literal["parent", "baseline", "trial"]
    name: str
    trial: int
    state: State
    search_score: float | None
    search_scores: dict[str, float]
    report_scores: dict[str, float]
    log_likelihood: float | None
    report_score: float | None
    report_interval: tuple[float, float] | None
    won: int
    lost: int
    p_value: float | None
    compared_on: Literal["search", "report"] | None
    seconds: float
    recipe: dict[str, Any]
    numbers: dict[str, Any]
    on_front: bool | None
    same_as: int | None
    error: str | None
    end_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The rows of a study, best first.

    Attributes:
        study: the study's name.
        best: the number of the best trial, or None.
        best_parent: the name of the parent that the others are compared with, or None.
        rows: by score on the search split; of equals the parents first, then the likelier, then the earlier trials.
        unfinished: what is left to do that no worker is at, in a sentence; known where a search has just ended.
    """

    study: str
    best: int | None
    best_parent: str | None
    rows: tuple[Row, ...]
    unfinished: str = ""

    @classmethod
    def open(cls, path: str | Path) -> Leaderboard:
        """Read the leaderboard of a results folder by its path. Raises SearchError if it holds no search."""
        return cls.read(ResultsFolder.open(Path(path)))

    @classmethod
    def read(cls, folder: ResultsFolder) -> Leaderboard:
        """Read the leaderboard of a results folder."""
        try:
            with quiet(), storage_errors(folder), closing(Studies.open(folder)) as studies:
                return cls.of(studies)
        except NothingYet:
            return cls(folder.study, None, None, ())

    @classmethod
    def of(cls, studies: Studies) -> Leaderboard:
        """Return the leaderboard of open studies."""
        reports = studies.reports()
        numbered = [(studies.number(trial), trial) for trial in [*studies.baseline_trials(), *studies.trials()]]
        splits = studies.split("search"), studies.split("report")
        front = studies.front()
        entries = [_Entry(trial, number, reports.get(number), *splits, front) for number, trial in numbered]
        parents = [entry for entry in entries if entry.kind == "parent" and entry.score is not None]
        best_parent = max(parents, key=lambda entry: entry.score or 0.0, default=None)
        rows = sorted((entry.row(best_parent) for entry in entries), key=_rank)
        best = next((row.trial for row in rows if row.kind == "trial" and row.state == "complete"), None)
        return cls(studies.folder.study, best, best_parent.name if best_parent else None, tuple(rows))

    @property
    def optimism(self) -> float | None:
        """What the best trial scores less on the report split than on the search split, which it was chosen by.

        The more trials there were, the more of the best one's score on the search split is luck. None if it has no
        score on the report split.
        """
        best = next((row for row in self.rows if row.trial == self.best), None)
        if best is None or best.search_score is None or best.report_score is None:
            return None
        return best.search_score - best.report_score

    def top(self, count: int | None) -> tuple[Row, ...]:
        """Return the parents and baselines, and the best `count` trials."""
        trials = {row.trial for row in [row for row in self.rows if row.kind == "trial"][:count]}
        return tuple(row for row in self.rows if row.kind != "trial" or row.trial in trials)

    def to_json(self, count: int | None = None) -> str:
        """Return the leaderboard as JSON; its keys are a contract."""
        rows = [{key: getattr(row, key) for key in _JSON_KEYS} for row in self.top(count)]
        content = {"study": self.study, "best": self.best, "optimism": self.optimism, "rows": rows}
        return json.dumps(content, allow_nan=False)

    def to_csv(self, count: int | None = None) -> str:
        """Return the leaderboard as CSV, a column a searched number."""
        rows = self.top(count)
        numbers = list(dict.fromkeys(key for row in rows for key in row.numbers))
        out = io.StringIO()
        writer = csv.writer(out)
        columns = "kind name trial state search_score report_score report_low report_high won lost p_value seconds"
        sets = list(dict.fromkeys(name for row in rows for name in row.search_scores))
        of_sets = [f"{split} {name}" for name in sets for split in ("search", "report")]
        writer.writerow([*columns.split(), "on_front", "same_as", "error", *of_sets, *numbers])
        for row in rows:
            low, high = row.report_interval or (None, None)
            cells = [row.kind, row.name, row.trial, row.state, row.search_score, row.report_score, low, high, row.won]
            cells += [row.lost, row.p_value, round(row.seconds, 3), row.on_front, row.same_as, row.error]
            cells += [scores.get(name) for name in sets for scores in (row.search_scores, row.report_scores)]
            writer.writerow([*cells, *(row.numbers.get(key) for key in numbers)])
        return out.getvalue()

    def table(self, count: int | None = None, width: int = 160) -> Table:
        """Return the leaderboard as a table for a terminal of that width; a narrow one leaves out the numbers."""
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.study, title_justify="left", box=None, pad_edge=False, header_style="bold")
        rows = self.top(count)
        sets = list(dict.fromkeys(name for row in rows for name in row.search_scores))
        titles = [shorten(name, _SET_WIDTH) for name in sets]
        others = _OTHER_COLUMNS + sum(max(len(title), len("100.0%")) + 2 for title in titles)
        columns = ["", "search", *titles, "report [95%]", "won:lost", "p", "s", "numbers"]
        limit = width // 4 if width >= _WIDE else max(width - others, _LEAST_NAME)
        called = [self._called(row, limit) for row in rows]
        short = self._parent_names(LABEL_WIDTH)
        room = width - others - max(map(cell_len, called), default=0)
        lines = [
            [name, *_cells(row, sets), "\n".join(number_lines(row.numbers, row.recipe, short, room))]
            for row, name in zip(rows, called, strict=True)
        ]
        kept = range(len(columns)) if width >= _WIDE else _fitting([columns, *lines], width, len(titles))
        for index in kept:
            is_text = columns[index] in ("", "numbers")
            table.add_column(columns[index], justify="left" if is_text else "right", no_wrap=not is_text)
        for row, cells in zip(rows, lines, strict=True):
            style = "bold green" if row.trial == self.best else "" if row.kind == "trial" else "cyan"
            table.add_row(*(Text(cells[index]) for index in kept), style=style)
        return table

    def numbers_below(self, width: int) -> list[str]:
        """Return the numbers of the best trial, for below a table that had no room for them; else nothing."""
        best = next((row for row in self.rows if row.trial == self.best), None)
        if best is None or width >= _WIDE:
            return []
        return [f"{best.name}:", *number_lines(best.numbers, best.recipe, self._parent_names(LABEL_WIDTH), width)]

    def _parent_names(self, width: int) -> dict[str, str]:
        return parent_names([row.recipe for row in self.rows if row.kind == "parent"], width)

    def _called(self, row: Row, width: int) -> str:
        """Return what a row is called; no name pushes the scores off the screen."""
        mark = f" (= {row.same_as})" if row.same_as is not None else _ON_FRONT if row.on_front else ""
        if (row.kind, row.name) == ("parent", self.best_parent):
            mark = _BEST_PARENT
        names = self._parent_names(width - len(mark)) if row.kind == "parent" else {}
        return (names.get(row.name) or shorten(row.name, width - len(mark))) + mark


@dataclass(frozen=True, slots=True)
class _Entry:
    trial: FrozenTrial
    number: int
    report: str | None
    on_search: Split
    on_report: Split
    front: frozenset[int]

    @property
    def kind(self) -> Literal["parent", "baseline", "trial"]:
        kind: Literal["parent", "baseline", "trial"] = self.trial.user_attrs.get(KIND, "trial")
        return kind

    @property
    def name(self) -> str:
        return str(self.trial.user_attrs.get(NAME, f"trial {self.number}"))

    @property
    def score(self) -> float | None:
        return score(self.trial)

    def row(self, reference: _Entry | None) -> Row:
        """Return the row of this trial, compared with the best parent."""
        attributes = self.trial.user_attrs
        groups = self.on_report.groups(self.report) if self.report else None
        won, lost, p_value, compared_on = self._compare(reference)
        return Row(
            kind=self.kind,
            name=self.name,
            trial=self.number,
            state=_STATES[self.trial.state],
            search_score=self.score,
            search_scores=self.on_search.scores(attributes.get(OUTCOMES, "")),
            report_scores=self.on_report.scores(self.report or ""),
            log_likelihood=attributes.get(LIKELIHOOD),
            report_score=weighted_mean(groups) if groups else None,
            report_interval=interval(groups) if groups else None,
            won=won,
            lost=lost,
            p_value=p_value,
            compared_on=compared_on,
            seconds=float(attributes.get(SECONDS, {}).get("total", 0.0)),
            recipe=attributes.get(RECIPE, {}),
            numbers=dict(self.trial.params),
            on_front=self.number in self.front if self.front and self.kind == "trial" else None,
            same_as=attributes.get(SAME_AS),
            error=attributes.get(ERROR),
            end_tokens=tuple(attributes.get(ENDS, ())),
        )

    def _compare(self, reference: _Entry | None) -> tuple[int, int, float | None, Literal["search", "report"] | None]:
        if reference is None or self.score is None or reference is self:
            return 0, 0, None, None
        if self.report and reference.report:
            test = paired_test(self.on_report.rates(self.report), self.on_report.rates(reference.report))
            return len(test.won), len(test.lost), test.p_value, "report"
        mine, theirs = (self.on_search.rates(it.trial.user_attrs.get(OUTCOMES, "")) for it in (self, reference))
        test = paired_test(mine, theirs)
        return len(test.won), len(test.lost), None, "search"


def _rank(row: Row) -> tuple[bool, float, int, float, int]:
    kind = ("parent", "baseline", "trial").index(row.kind)
    unlikely = math.inf if row.log_likelihood is None else -row.log_likelihood
    return row.search_score is None, -(row.search_score or 0.0), kind, unlikely, row.trial


def _fitting(lines: Sequence[Sequence[str]], width: int, sets: int) -> Sequence[int]:
    """Return the columns that a narrow terminal has room for: the names and their scores first, the numbers never."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]
    report = 2 + sets
    kept = list(range(report + 4))
    for least in (report + 3, report + 2, report + 1, *range(report - 1, 1, -1), report):
        if sum(widths[index] for index in kept) - 2 <= width:
            break
        kept.remove(least)
    return kept


def _cells(row: Row, sets: Sequence[str]) -> Sequence[str]:
    if row.search_score is None:
        ended = "pruned" if row.state == "pruned" else "failed"
        return [ended, *("" for _ in sets), "", "", "", f"{row.seconds:.1f}"]
    report = ""
    if row.report_score is not None and row.report_interval is not None:
        low, high = row.report_interval
        report = f"{row.report_score:.1%} [{low:.0%}, {high:.0%}]"
    # Won and lost on the search split carry no test: the search has seen it.
    versus = f"{row.won}:{row.lost}{'*' if row.compared_on == 'search' else ''}" if row.compared_on else ""
    p_value = "" if row.p_value is None else f"{row.p_value:.1g}" if row.p_value < 0.001 else f"{row.p_value:.3f}"
    of_sets = [f"{row.search_scores[name]:.1%}" if name in row.search_scores else "" for name in sets]
    return [f"{row.search_score:.1%}", *of_sets, report, versus, p_value, f"{row.seconds:.1f}"]
