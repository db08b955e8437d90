"""The worker: takes jobs of a search until there are none, whatever other workers do meanwhile.

Guarantees: many workers may share one results folder. The first Ctrl-C (or SIGTERM) lets the running trial finish, the
second stops at once. A stopped trial is run again at the next start.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from evaluation import ConsentError
from search.board.leaderboard import Leaderboard
from search.callbacks.callback import Callback, Callbacks
from search.errors import SearchError
from search.progress import Progress
from search.results import ResultsFolder
from search.space.config import SearchConfig
from search.startup import quick_imports
from search.study.store import Stop

if TYPE_CHECKING:
    from search.run.phases import Phases


def run_search(
    config: SearchConfig,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
    callbacks: Iterable[Callback] = (),
) -> Leaderboard:
    """Begin a search, or continue one, and return its leaderboard.

    Args:
        config: the config of the search.
        out: the results folder; by default ``results/`` and the config's name.
        trials: the number of trials that the search has in all, instead of the config's; parents do not count.
        timeout: the number of seconds after which no trial begins, instead of the config's.
        seed: the seed of the sampler and of the split, instead of the config's.
        fresh: start over; an existing folder is moved aside.
        retry_failed: run again all that has failed so far.
        progress: shows what happens; by default nothing is shown.
        callbacks: called with the result of each model, such as `MlflowTracker()`; one that raises is switched off.

    Raises:
        SearchError, MergingError, EvaluationError: the config, the folder, the models or the problems cannot be used,
            and no existing folder was changed; or the folder can no longer be written, or no parent can be scored, or
            the machine fails at one trial after another; all scores are kept.
    """
    if seed is not None:
        config = config.updated("search", seed=seed)
    for error in config.missing():  # reported before asking for consent
        raise error
    if not config.evaluation.allow_code_execution:
        raise ConsentError
    config.require_backend()
    config.require_files()
    total = config.search.trials if trials is None else trials
    path = Path(out) if out is not None else default_folder(config)
    ResultsFolder.refuse(path, config, fresh)
    with quick_imports():  # only now: torch, transformers and optuna take seconds
        from search.run.phases import Phases
        from search.run.setup import set_up
    limit = config.search.timeout if timeout is None else timeout
    deadline = time.monotonic() + limit if limit is not None else None
    progress = progress or Progress()
    stop = StopRequest(progress)
    with stop.on_signals(), set_up(config, path, total, progress, fresh, retry_failed) as session:
        stop.waits_for_trial = True
        told = Callbacks.of(callbacks, progress.say)
        phases = Phases(session, total, deadline, lambda: stop.asked, told)
        with told.during(phases.begun, phases.leaderboard), stop.kept(phases):
            phases.run()
        return phases.leaderboard()


def default_folder(config: SearchConfig) -> Path:
    """Return the default results folder of a config."""
    return Path("results") / Path(config.source).stem


@dataclass
class StopRequest:
    """Whether the user has asked to stop.

    Attributes:
        progress: shows that the worker is stopping.
        waits_for_trial: whether the first signal lets a trial finish, as it does once there are trials.
        by: the first signal that has come, if any.
    """

    progress: Progress
    waits_for_trial: bool = False
    by: Stop | None = None

    @property
    def asked(self) -> bool:
        """Whether the first signal has come."""
        return self.by is not None

    @contextlib.contextmanager
    def kept(self, phases: Phases) -> Iterator[None]:
        """Keep in the store what has stopped the worker, if its search has not ended when it leaves."""
        store = phases.session.store
        store.keep_stop(None)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(SearchError):  # of the same folder
                store.keep_stop("error" if isinstance(error, Exception) else self.by)
            raise
        by = self.by or ("time" if phases.is_late else None)
        store.keep_stop(by if phases.unfinished() else None)  # another worker's stop no longer matters

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM stop the worker after its trial, and the second at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.asked or not self.waits_for_trial:
                handler = before[signal.Signals(number)]
                if callable(handler):
                    handler(number, frame)
                raise KeyboardInterrupt
            self.by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            self.progress.stopping()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
