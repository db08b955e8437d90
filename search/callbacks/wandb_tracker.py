"""A search as a run of Weights & Biases: a row of its history per trial, parents and verdict in its summary."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import wandb

from search.board.leaderboard import Leaderboard
from search.callbacks.entries import Entries
from search.callbacks.tracker import FOLDER, PROJECT, Tracker
from search.locks import held, is_held


class WandbTracker(Tracker):
    """Keeps a search in Weights & Biases, where its environment variables say (WANDB_MODE, WANDB_PROJECT, ...).

    Only one process can write a run, so each of several workers has its own, in a group with the search's name.
    """

    _run: wandb.Run
    _number: int

    def place(self) -> str:
        """Take the first run of the search that no worker holds; return the name of its file."""
        folder = self.search.folder.path / FOLDER
        self._held = ExitStack()
        for number in itertools.count():
            lock = folder / f".wandb-{number}"
            if not is_held(lock):
                break
        self._held.enter_context(held(lock))
        self._number = number
        return f"wandb-{number}" if number else "wandb"

    def fills_in(self) -> bool:
        """Whether this is the first worker's run."""
        return self._number == 0

    def begin(self, run: str | None) -> str:
        """Continue a run, or begin one; see `Tracker`."""
        search, name = self.search, self.search.folder.name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run,
            resume="allow" if run else None,
            name=f"{name} ({self._number})" if self._number else name,
            group=name,
            config=self.settings,
            dir=os.environ.get("WANDB_DIR", search.folder.path),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("trial")
        self._run.define_metric("*", step_metric="trial")
        folder = Path(self._run.dir).parent
        sync = shlex.join(["wandb", "sync", str(folder)])
        search.say(f"wandb: to upload it, run `{sync}`" if self._run.offline else f"wandb: {self._run.url}")
        return self._run.id

    def add_trial(self, number: int, found: Entries) -> None:
        """Add a row to the history."""
        self._run.log({"trial": number, **found})

    def add_reference(self, name: str, found: Entries) -> None:
        """Add a reference model to the summary."""
        self._run.summary.update({f"{name}/{key}": value for key, value in found.items()})

    def end(self, leaderboard: Leaderboard, files: Mapping[str, str]) -> None:
        """Add the verdict and the files, and end the run."""
        verdict: dict[str, Any] = {"verdict": leaderboard.verdict.ruling, "evidence": leaderboard.verdict.sentence}
        self._run.summary.update(verdict)
        folder = Path(self._run.dir)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            self._run.save(folder / name, base_path=folder, policy="now")
        self._run.finish()
        self._held.close()
