"""The worker: takes trials of a study until there are enough, then scores the finalists on the report split.

Guarantees: many workers may share one results folder; the first Ctrl-C (or SIGTERM) lets the running trial
finish, the second stops at once, and what was stopped is run again on the next start; the search never
sees the report split.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from evaluation import ConsentError, EvaluationError, Evaluator, ProblemSet, load_problems
from merging import Merger, MergingError, ParentSet, Recipe
from search.config import SearchConfig
from search.errors import SearchError
from search.leaderboard import Leaderboard
from search.progress import Progress, Silent
from search.results import ResultsFolder
from search.study import (
    ERROR,
    NAME,
    OUTCOMES,
    RECIPE,
    SECONDS,
    Baseline,
    Studies,
    claim,
    done,
    in_flight,
    quiet,
    reports,
    save_report,
    waiting,
)
from search.trial import Bench, run_trial, statuses

_LOG = logging.getLogger("search.worker")


def run_search(
    config: SearchConfig,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Leaderboard:
    """Run a search, or go on with one, and return its leaderboard.

    Args:
        config: what to search.
        out: the results folder; by default ``results/`` and the config's name.
        trials: how many trials the search has in all, instead of the config's number.
        timeout: stop taking trials after this many seconds, instead of the config's.
        seed: the sampler's seed and that of the split, instead of the config's.
        fresh: begin anew; an existing folder is moved aside.
        progress: told what happens; by default nobody is.

    Raises:
        SearchError, MergingError, EvaluationError: the config, the folder, the models or the problems cannot be used;
            no existing folder was changed.
    """
    if seed is not None:
        config = config.with_seed(seed)
    if not config.evaluation.allow_code_execution:
        raise ConsentError
    total, limit = trials or config.search.trials, timeout or config.search.timeout
    path = Path(out) if out is not None else Path("results") / Path(config.source).stem
    worker = _Worker(config, progress or Silent())
    with quiet(), _interruptible(worker):
        return worker.run(path, total, limit, fresh)


def baselines(config: SearchConfig) -> list[Baseline]:
    """Return what candidates are compared with: each parent alone, and the average of those that are merged."""
    example = config.space.example()
    dtype = example.out_dtype or example.dtype
    parents = example.parents()
    found = [Baseline("parent", name, Recipe.single(name, dtype)) for name in parents]
    merged = [name for name in parents if name != example.base_model]
    if len(merged) > 1:
        found.append(Baseline("baseline", "equal average", Recipe.average(merged, dtype)))
    return found


@dataclass
class _Worker:
    config: SearchConfig
    progress: Progress
    stopping: bool = False

    def run(self, path: Path, total: int, limit: float | None, fresh: bool) -> Leaderboard:
        config = self.config
        problems = load_problems(config.evaluation.problems)
        visible, report = problems.split(config.evaluation.report_fraction, config.search.seed)
        if not len(visible):
            raise SearchError(f"{config.source}: evaluation.report_fraction: leaves no problem to search on")
        known = baselines(config)
        recipes = [config.space.example(), *config.space.corners(), *(baseline.recipe for baseline in known)]
        with ParentSet.open(recipes, _device(config.merging.device), self._reading) as parents:
            merger = Merger(parents, config.merging.random_seed)
            for recipe in recipes[:2]:
                merger.plan(recipe)
                merger.tokenizer(recipe)
            # Only now is anything written: whatever is wrong with the input has been found.
            folder = ResultsFolder.create(path, config, fresh)
            handler = folder.log_to_file()
            try:
                with self._evaluator(visible) as evaluator:
                    bench = Bench(merger, evaluator, visible, config.evaluation.prompt.tokenizer, folder, self.progress)
                    studies = Studies.create(folder, config, known, config.search.seed)
                    studies.revive()
                    self._run_all(studies, bench, total, limit, report)
            finally:
                logging.getLogger("search").removeHandler(handler)
                handler.close()
        return Leaderboard.read(folder)

    def _evaluator(self, problems: ProblemSet) -> Evaluator:
        settings = self.config.evaluation
        return Evaluator(
            problems,
            allow_code_execution=settings.allow_code_execution,
            prompt=settings.prompt.format,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            timeout_seconds=settings.timeout,
            workers=settings.workers,
        )

    def _reading(self, _parent: str, read: int, tensors: int) -> None:
        if read == 1:
            self.progress.begin("reading", 1, None)
            self.progress.trial("the parents", 0)
            self.progress.phase("tensors")
        self.progress.step(read, tensors)

    def _run_all(self, studies: Studies, bench: Bench, total: int, limit: float | None, report: ProblemSet) -> None:
        deadline = time.monotonic() + limit if limit else None
        count = len(studies.baselines.get_trials(deepcopy=False))
        self.progress.begin("baseline", count, None)
        while not self.stopping and waiting(studies.baselines):
            self._one(studies.baselines, bench)
        self.progress.begin("trial", total, deadline)
        while not self.stopping and not _expired(deadline) and self._wanted(studies.search, total):
            self._one(studies.search, bench)
        if not self.stopping and len(report):
            self._score_finalists(studies, bench, report)

    def _wanted(self, study: Study, total: int) -> bool:
        return len(done(study)) + in_flight(study) < total

    def _one(self, study: Study, bench: Bench) -> None:
        trial = claim(study)
        name = trial.user_attrs.get(NAME) or f"trial {trial.number}"
        name = Path(name).name if NAME in trial.user_attrs else name
        self.progress.trial(name, len(done(study)))
        run_trial(study, trial, self.config.space, bench)
        ended = study.trials[trial.number]
        seconds = ended.user_attrs.get(SECONDS, {}).get("total", 0.0)
        self.progress.scored(name, ended.value, seconds, ended.user_attrs.get(ERROR, "").partition("\n")[0])

    def _score_finalists(self, studies: Studies, bench: Bench, report: ProblemSet) -> None:
        jobs = [(studies.baselines, trial) for trial in done(studies.baselines) if trial.state is TrialState.COMPLETE]
        jobs += [(studies.search, trial) for trial in finalists(studies.search, self.config.search.finalists)]
        scored = {study.study_name: reports(study) for study in (studies.baselines, studies.search)}
        jobs = [(study, trial) for study, trial in jobs if trial.number not in scored[study.study_name]]
        self.progress.begin("report split", len(jobs), None)
        for index, (study, trial) in enumerate(jobs):
            if self.stopping:
                return
            name = Path(trial.user_attrs.get(NAME, f"trial {trial.number}")).name
            self.progress.trial(name, index)
            try:
                recipe = Recipe.from_dict(trial.user_attrs[RECIPE], self.config.source)
                scores, _ = bench.score(recipe, report)
            except (MergingError, EvaluationError, RuntimeError) as error:
                _LOG.exception("%s trial %d failed on the report split", study.study_name, trial.number)
                self.progress.say(f"{name}: not scored on the report split: {error}")
                continue
            prefix = "report-baseline" if study is studies.baselines else "report-trial"
            bench.folder.save_completions(f"{prefix}-{trial.number}", scores.outcomes.values())
            save_report(study, trial.number, statuses(scores))


def finalists(study: Study, count: int) -> Sequence[FrozenTrial]:
    """Return the best trials on the search split, best first; of equals the earlier, and each recipe once."""
    complete = [trial for trial in done(study) if trial.state is TrialState.COMPLETE and OUTCOMES in trial.user_attrs]
    ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
    distinct = {str(trial.user_attrs[RECIPE]): trial for trial in reversed(ranked)}
    return [trial for trial in ranked if distinct[str(trial.user_attrs[RECIPE])] is trial][:count]


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _expired(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


@contextlib.contextmanager
def _interruptible(worker: _Worker) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the worker after its trial, and the second at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if worker.stopping:
            raise KeyboardInterrupt
        worker.stopping = True
        worker.progress.say("stopping when this trial is done; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
