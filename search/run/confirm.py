"""The confirmation of a search that is over: more evidence for its finalists, whatever other workers do meanwhile.

Guarantees: a mistake in the options, or a parent that cannot be used, is reported before a model is loaded. A
confirmation may be stopped and killed like a search; the same command continues it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from evaluation import ConsentError
from search.board.leaderboard import Leaderboard
from search.board.round_looks import confirmation_ended
from search.board.search_verdict import proven
from search.callbacks.callback import Callback, Callbacks
from search.confirmation_plan import Asked, plan_confirmation, recorded_evaluation, require_confirmable
from search.errors import SearchError
from search.progress import Progress
from search.results import ResultsFolder
from search.run.worker import StopRequest
from search.space.config import require_backend
from search.space.sections import Sections
from search.startup import quick_imports


def confirm_search(
    path: str | Path,
    problems: Sequence[str] = (),
    *,
    samples: int | None = None,
    temperature: float | None = None,
    timeout: float | None = None,
    device: str | None = None,
    allow_code_execution: bool = False,
    progress: Progress | None = None,
    callbacks: Iterable[Callback] = (),
) -> Leaderboard:
    """Score the finalists of a search, and its parents, until a finalist is proven or refuted; return the leaderboard.

    Args:
        path: the results folder.
        problems: sources of problems in addition to the report split, without those that the search has seen.
        samples: rounds, in each of which a model generates one completion per problem; by default 1. Fixed when the
            confirmation begins.
        temperature: the temperature of the samples; by default the search's, or 0.2 if that is 0 and there are several
            rounds.
        timeout: the number of seconds after which no further round of a model begins.
        device: the device to merge and evaluate on, instead of `merging.device`.
        allow_code_execution: consent, if the config does not give it.
        progress: shows what happens; by default nothing is shown.
        callbacks: called with the result of each round; one that raises is switched off.

    Raises:
        SearchError, MergingError, EvaluationError: there is nothing to confirm; the options make no sense, or are not
            those that this confirmation began with; or a model or problem cannot be used.
    """
    folder, progress = ResultsFolder.open(Path(path)), progress or Progress()
    deadline = time.monotonic() + timeout if timeout is not None else None
    sections = Sections.load(folder.config_file)
    if not (allow_code_execution or sections.evaluation.allow_code_execution):
        raise ConsentError
    name, records, splits, looks = folder.read()
    board = Leaderboard.of(name, records, splits, looks)
    begun = folder.confirmation
    if not begun and folder.is_scoring():
        raise SearchError(f"{folder.path}: a worker is still scoring models; confirm when the search has ended")
    if found := proven(records, splits, looks):
        return replace(board, ended=f"proven at trial {found[0]}")
    finalists = (
        begun.finalists if begun else require_confirmable(folder.path, records, looks, sections.search.finalists)
    )
    evaluation = recorded_evaluation(folder.identity, sections, folder.path)
    planned = plan_confirmation(folder, evaluation, Asked(tuple(problems), samples, temperature), finalists)
    has_failed = any(record.on("confirm").state == "failed" for record in records)
    if begun and not has_failed and (ended := confirmation_ended(records, splits, looks)):
        return replace(board, ended=ended)
    require_backend(evaluation, str(folder.config_file))
    for note in planned.notes:
        progress.say(note)
    with quick_imports():  # only now: torch and transformers take seconds
        from search.run.rounds import Rounds, set_up_rounds
    stop = StopRequest(progress)
    with stop.on_signals(), set_up_rounds(folder, evaluation, planned, progress, device) as session:
        stop.waits_for_trial = True
        told = Callbacks.of(callbacks, progress.say)
        rounds = Rounds(session, 0, deadline, lambda: stop.asked, told, planned)
        with told.during(rounds.begun, rounds.leaderboard), stop.kept(rounds):
            rounds.run()
        return rounds.leaderboard()
