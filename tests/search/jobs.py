"""Jobs of a real store, claimed and ended by a test instead of a worker."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from search import SearchConfig
from search.study.record import State
from search.study.samplers import Proposer
from search.study.store import Job, Store

# Of the family's problems on the search split.
_PROBLEMS = 8


def claim(store: Store, worker: str, trials: int, config: SearchConfig) -> Job:
    """Claim a job on the search split; a trial has parameters."""
    job = store.claim(worker, trials)
    assert job
    if job.record.kind != "trial" or job.record.parameters:
        return job
    proposer = Proposer(config.search.sampler, config.search.seed, config.space.distributions())
    return store.propose(job, proposer.propose(job.record.number, store.changed()[0]))


def finish(store: Store, job: Job, config: SearchConfig, state: State = "complete", error: str | None = None) -> None:
    """End a trial; one that is complete has passed all problems."""
    scoring = replace(job.record.search, state=state, error=error)
    if state == "complete":
        scoring = replace(scoring, outcomes="p" * _PROBLEMS, score=1.0, scores=(1.0,))
    recipe = config.space.recipe_at(job.record.parameters).to_dict()
    assert store.keep(job, replace(job.record, recipe=recipe, search=scoring))


def forget(out: Path, *tables: str) -> None:
    """Empty some tables of a search, by default all that say what became of models."""
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        for table in tables or ("records", "scorings", "drafts"):
            database.execute(f"DELETE FROM {table}")
    if not tables:
        shutil.rmtree(out / "completions", ignore_errors=True)


def forget_reports(out: Path) -> None:
    """Let no model have been scored on the report split."""
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("DELETE FROM scorings WHERE split = 'report'")
    for file in (out / "completions").glob("report-*"):
        file.unlink()
