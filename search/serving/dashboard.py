"""The dashboard: optuna-dashboard on the study of a search, which follows the search.

Guarantees: writes nothing into the results folder; the study is in memory, and an answer has all that changed before
its request. Changes that are made in the dashboard (notes, trials) are lost when it ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import yaml
from optuna.study import Study
from optuna.trial import Trial

from merging.recipes.yaml_file import Dumper
from search.board.leaderboard import Leaderboard, Row
from search.board.search_verdict import objectives
from search.errors import SearchError
from search.results import ResultsFolder
from search.shell import shell_command
from search.space.space import SearchSpace
from search.study.projection import Projection, quiet
from search.study.record import TrialRecord

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INSTALL = "optuna-dashboard is not installed: pip install 'merge-search[dashboard]'"
_ONE_OBJECTIVE = "pass@1 on the search split"
# The number of the best trials that have a note: each note makes every answer longer.
_NOTED = 100


class Dashboard:
    """A WSGI application that shows a search.

    Args:
        results: the results folder.
        tell: called with the reason if the search can no longer be followed.

    Raises:
        SearchError: there is no search, none of its models is scored yet, or optuna-dashboard is not installed.
    """

    def __init__(self, results: Path, tell: Callable[[str], None]) -> None:
        try:
            from optuna_dashboard import wsgi
        except ModuleNotFoundError:
            raise SearchError(INSTALL) from None
        self._folder, self._tell, self._told = ResultsFolder.open(results), tell, ""
        name, records, self._splits, _ = self._folder.read()
        space = SearchSpace.read(self._folder.identity["recipe"], str(results))
        self._folder.require_parameters(records, space)
        self._objectives = objectives(records)
        storage = optuna.storages.InMemoryStorage()
        with quiet():
            self._projection = Projection(space.distributions(), self._objectives, storage, name)
        self._application: WSGIApplication = wsgi(storage)
        self._records: dict[str, TrialRecord] = {}
        self._revision, self._study_id = 0, -1
        self._notes: dict[int | None, str] = {}
        self.update()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request with the present state of the search."""
        try:
            self.update()
        except SearchError as error:  # the folder was moved, for example
            if str(error) != self._told:
                self._tell(f"the search is shown as it was last: {error}")
            self._told = str(error)
        return self._application(environ, start_response)

    @property
    def study(self) -> Study:
        """The study as it was last shown."""
        return self._projection.study

    def update(self) -> None:
        """Show the search as it is now. Raises SearchError."""
        with self._folder.reading() as store:
            changed, revision = store.changed(self._revision)
        if revision == self._revision:
            return
        self._records |= {record.key: record for record in changed}
        self._revision = revision
        trials = [record for record in self._records.values() if record.kind == "trial"]
        trials.sort(key=lambda record: record.number)
        with quiet():
            self._projection.update(trials)
            self._note([record.number for record in trials])

    def _note(self, numbers: Sequence[int]) -> None:
        """Name the objectives, and add notes on what the study does not say; `numbers` are its trials' numbers."""
        study = self.study
        if study._study_id != self._study_id:  # it was made again
            self._study_id, self._notes = study._study_id, {}
            names = [part for part, *_ in self._splits["search"].parts]
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                study.set_metric_names(names if len(names) == self._objectives > 1 else [_ONE_OBJECTIVE])
        board = Leaderboard.of(*self._folder.read())
        self._save(study, None, _study_note(board, self._folder.path))
        ids = {number: trial._trial_id for number, trial in zip(numbers, study.get_trials(deepcopy=False), strict=True)}
        for record in board.trials[:_NOTED]:
            if record.number in ids:  # else the trial is newer than the study
                self._save(study, ids[record.number], _trial_note(board.row(record)))

    def _save(self, study: Study, trial: int | None, note: str) -> None:
        from optuna_dashboard import save_note

        if note != self._notes.get(trial):
            self._notes[trial] = note
            save_note(study if trial is None else Trial(study, trial), note)


def serve(application: WSGIApplication, port: int) -> WSGIServer:
    """Return a listening server that only this machine can reach; port 0 takes a free one. Raises SearchError."""
    try:
        return make_server("localhost", port, application, handler_class=_Quiet)
    except OSError as error:
        raise SearchError(f"--port {port}: {error.strerror}; give another one, or 0 for a free one") from None


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep each request off the terminal."""


def _study_note(board: Leaderboard, results: Path) -> str:
    """Return the verdict, the best trial and the reference models, which are not trials of the study."""
    rows = [row for row in board.top(1) if row.record.search.score is not None]
    lines = [f"**{board.verdict.sentence}**", "", *_table(rows), "", f"`{shell_command('leaderboard', results)}`"]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    """Return rows as a table in Markdown."""
    if not rows:
        return ["No model is scored yet."]
    names = [row.name.replace("|", r"\|") for row in rows]
    return [
        "| model | search split | report split [95%] |",
        "|---|---:|---:|",
        *(
            f"| {name} | {_percent(row.record.search.score)} | {_report(row)} |"
            for name, row in zip(names, rows, strict=True)
        ),
    ]


def _trial_note(row: Row) -> str:
    """Return what became of a trial besides its score, and its recipe."""
    record = row.record
    lines = [f"Proposed by {record.proposed_by}." if record.proposed_by else ""]
    if record.report and record.report.score is not None:
        lines.append(f"Report split: {_report(row)}; won:lost {row.won}:{row.lost} against the best parent.")
    if record.search.error:
        lines.append(f"```\n{record.search.error}\n```")
    recipe = yaml.dump(dict(record.recipe), sort_keys=False, Dumper=Dumper, allow_unicode=True)
    return "\n\n".join([*filter(None, lines), f"```yaml\n{recipe}```"])


def _report(row: Row) -> str:
    if row.report_interval is None:
        return ""
    low, high = row.report_interval
    return f"{_percent(row.record.on('report').score)} [{low:.0%}, {high:.0%}]"


def _percent(score: float | None) -> str:
    return "" if score is None else f"{score:.1%}"
