"""A results folder: ``results/NAME/``, everything that a search leaves behind.

    config.yaml            the config as it was given
    study.db               the two Optuna studies: NAME, and NAME/baselines (SQLite)
    completions/*.jsonl    what each trial wrote, a line a problem
    worker.log             what happened, with tracebacks

Guarantees: a folder belongs to one config; opening it with another is refused and changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.config import SearchConfig
from search.errors import SearchError

if TYPE_CHECKING:
    from evaluation import Outcome

_CONFIG, _STUDY, _COMPLETIONS, _LOG, _IDENTITY = "config.yaml", "study.db", "completions", "worker.log", "identity.json"


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Where one search keeps its results."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: SearchConfig, fresh: bool = False) -> ResultsFolder:
        """Make the folder of a search, or open it to go on with the search that it holds.

        Args:
            path: the folder.
            config: the search's config.
            fresh: begin anew; what is there is moved aside, to NAME.1, NAME.2, ...

        Raises:
            SearchError: the folder belongs to another config, or is none of ours.
        """
        folder = cls(path)
        if fresh and path.exists():
            folder._move_aside()
        if path.is_file():
            raise SearchError(f"{path}: is a file; give a folder for the results with --out")
        if (path / _IDENTITY).exists():
            folder._check(config)
        elif path.exists() and any(path.iterdir()):
            raise SearchError(f"{path}: is not empty and holds no search; give another folder with --out")
        else:
            try:
                (path / _COMPLETIONS).mkdir(parents=True, exist_ok=True)
                write_atomically(path / _CONFIG, config.text)
                write_atomically(path / _IDENTITY, json.dumps(config.identity, indent=2))
            except OSError as error:
                raise SearchError(
                    f"{path}: cannot be written: {error.strerror}; give another folder with --out"
                ) from None
        return folder

    @classmethod
    def open(cls, path: Path) -> ResultsFolder:
        """Open the folder of a search to read it. Raises SearchError if it holds none."""
        if not (path / _STUDY).is_file():
            raise SearchError(f"{path}: holds no search; `merge-search run CONFIG --out {path}` makes one")
        return cls(path)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.resolve().name

    @property
    def storage_url(self) -> str:
        """Where Optuna keeps the studies."""
        return f"sqlite:///{(self.path / _STUDY).resolve()}"

    @property
    def config_text(self) -> str:
        """The config as it was given."""
        return (self.path / _CONFIG).read_text(encoding="utf-8")

    def save_completions(self, name: str, outcomes: Iterable[Outcome]) -> None:
        """Write what a trial wrote, as a samples file that `merge-search score` reads."""
        lines = [
            json.dumps(
                {"task_id": o.task_id, "completion": o.completion, "status": o.status, "tokens": o.completion_tokens}
            )
            for o in outcomes
        ]
        write_atomically(self.path / _COMPLETIONS / f"{name}.jsonl", "".join(line + "\n" for line in lines))

    def log_to_file(self) -> logging.Handler:
        """Return a handler, attached to the package's logger, that appends to the folder's log."""
        handler = logging.FileHandler(self.path / _LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
        logger = logging.getLogger("search")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        return handler

    def _check(self, config: SearchConfig) -> None:
        known: Mapping[str, str] = json.loads((self.path / _IDENTITY).read_text(encoding="utf-8"))
        differing = [key for key, digest in config.identity.items() if known.get(key) != digest]
        if differing:
            raise SearchError(
                f"{self.path}: was made by another config than {config.source}: {', '.join(differing)} differ; "
                "give another folder with --out, or --fresh to move this one aside and begin anew"
            )

    def _move_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)


def write_atomically(file: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
