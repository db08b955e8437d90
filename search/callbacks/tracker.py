"""A tracker: a callback that keeps a search in an experiment tracker, as one run, which a resumed search continues.

    results/NAME/tracking/TRACKER   the run's id, and then one line per model and split that the run has (in a
                                    confirmation, per round of a model); a further run's file is TRACKER-NUMBER

Guarantees: each scoring is added, even if its worker was killed before it could add it, or ran without the tracker: the
next worker adds it (of several rounds the last, which holds the earlier ones). What a file lists is not added again, to
its run or to another run of the search.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from search.board.leaderboard import Leaderboard
from search.board.names import displayed_name
from search.callbacks.callback import BegunSearch, Callback
from search.callbacks.entries import Entries, entries, names_of_parents
from search.locks import exclusive
from search.progress import SearchStatus
from search.study.record import SplitName, TrialRecord
from search.views.json_csv import leaderboard_csv

FOLDER = "tracking"
PROJECT = "merge-search"
"""The project, or experiment, of the runs unless the tracker's own environment variable names one."""
_SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class Tracker(Callback):
    """A callback that keeps one run."""

    search: BegunSearch
    _file: Path
    _names: Mapping[str, str]

    def on_begin(self, search: BegunSearch) -> None:
        """Begin or continue the run, and add what no worker has added."""
        self.search = search
        self._names = names_of_parents(search.records)
        folder = search.folder.path / FOLDER
        folder.mkdir(exist_ok=True)
        with exclusive(folder / ".lock"):  # if several workers begin at once, one makes the run, and adds
            self._file = folder / self.place()
            known = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
            run = self.begin(known[0] if known else None)
            if [run] != known[:1]:
                self._file.write_text(f"{run}\n", encoding="utf-8")
            if self.fills_in():
                self._fill_in(self._told())

    def on_record(self, record: TrialRecord, split: SplitName, status: SearchStatus) -> None:
        """Add a model's scoring to the run."""
        best = {"best score": status.best.search.score} if status.best and status.best.search.score is not None else {}
        self._add(record, split, dict(best) if split == "search" and record.kind == "trial" else {})

    def on_end(self, leaderboard: Leaderboard) -> None:
        """Add the verdict, the config, the leaderboard and the recipe of the best trial."""
        row = leaderboard.best_row
        config = self.search.folder.config_file.read_text(encoding="utf-8")
        files = {"config.yaml": config, "leaderboard.csv": leaderboard_csv(leaderboard)}
        if row:
            from merging import Recipe

            files["recipe.yaml"] = Recipe.from_dict(row.record.recipe, row.name).to_yaml()
        self.end(leaderboard, files)

    @property
    def settings(self) -> dict[str, Any]:
        """The config's sections as plain data, with all defaults."""
        config = self.search.config
        sections = {"evaluation": config.evaluation, "search": config.search, "merging": config.merging}
        plain = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return {"recipe": config.space.template, **plain}

    @property
    def _name(self) -> str:
        return type(self).__name__.removesuffix("Tracker").lower()

    def place(self) -> str:
        """Return the name of the file about this worker's run."""
        return self._name

    def fills_in(self) -> bool:
        """Whether this worker adds what no worker has added."""
        return True

    @abstractmethod
    def begin(self, run: str | None) -> str:
        """Continue a run, or begin one if it is None or gone; return its id."""

    @abstractmethod
    def add_trial(self, number: int, found: Entries) -> None:
        """Add what became of a trial."""

    @abstractmethod
    def add_reference(self, name: str, found: Entries) -> None:
        """Add what became of a parent, or of the average."""

    @abstractmethod
    def end(self, leaderboard: Leaderboard, files: Mapping[str, str]) -> None:
        """Add the verdict and some files, by name, and end the run."""

    def _told(self) -> set[str]:
        """Return what the runs of this search that the tracker has were told, by all workers."""
        files = [file for runs in (self._name, f"{self._name}-*") for file in self._file.parent.glob(runs)]
        return {line for file in files for line in file.read_text(encoding="utf-8").splitlines()[1:]}

    def _fill_in(self, told: set[str]) -> None:
        for record in self.search.over:
            for split in _SPLITS:
                scoring = record.on(split)
                # Between two rounds of a confirmation a model waits.
                has_ended = scoring.state in ("complete", "pruned", "failed") or bool(scoring.outcomes)
                if has_ended and self._line(record, split) not in told:
                    self._add(record, split, {})

    def _add(self, record: TrialRecord, split: SplitName, more: Entries) -> None:
        found = entries(record, split, self._names, self.search.splits) | more
        if record.kind == "trial":
            self.add_trial(record.number, found)
        else:
            self.add_reference(displayed_name(record, self._names), found)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self._line(record, split)}\n")

    def _line(self, record: TrialRecord, split: SplitName) -> str:
        """Return what the file says of a scoring; in a confirmation, with the number of rounds that it has."""
        rounds = len(record.on(split).outcomes) // self.search.splits[split].problems if split == "confirm" else ""
        return f"{record.key} {split} {rounds}".rstrip()
