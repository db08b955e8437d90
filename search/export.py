"""Export of a trial: the merge that was scored, as a model folder, with its evidence in the model card."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from merging import Recipe, renamed
from search.database import storage_errors
from search.devices import choose_device
from search.errors import SearchError
from search.leaderboard import Leaderboard, Row
from search.results import ResultsFolder
from search.space.config import EvaluationSection, Sections
from search.startup import quick_imports
from search.study import Studies, quiet


def export_trial(
    path: str | Path,
    to: str | Path,
    *,
    trial: int | None = None,
    max_shard_size: str = "5GB",
    mergekit_compatible: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Row:
    """Write the model of a trial into a folder, by default that of the best one.

    Args:
        path: the results folder.
        to: the folder to make.
        trial: the trial's number.
        max_shard_size: the most that one file of weights may hold.
        mergekit_compatible: whether mergekit must be able to read what is exported.
        progress: called with (phase, done, in all).
        note: called with what is otherwise than a person would hope, in sentences.

    Returns:
        The row of the leaderboard that was exported.

    Raises:
        SearchError: there is no such trial. MergingError: the merge cannot be made or written.
    """
    folder = ResultsFolder.open(Path(path))
    leaderboard = Leaderboard.read(folder)
    row = _choose(leaderboard, folder, trial)
    config = Sections.load(folder.config_file)
    with quick_imports():  # only now: what cannot be exported is told before torch is waited for
        from merging import ExportOptions, FileDigests, MergeOptions, ScoredMerge, export_model, model_card
        from search.contents import find

    digests = FileDigests()
    places = find(folder.identity, row.recipe, folder.path, digests, config.merging, progress)
    recipe = Recipe.from_dict(renamed(row.recipe, places), f"{folder.path}: {row.name}")
    seed = config.merging.random_seed
    device = choose_device(config.merging.device, f"{folder.config_file}: merging.device")
    target = Path(to)
    computed = "the model's own dtype" if folder.compute_dtype == "recipe" else folder.compute_dtype
    card = model_card(recipe, target.resolve().name, seed, _evidence(row, leaderboard, config.evaluation, computed))
    export_model(
        recipe,
        target,
        MergeOptions(
            device,
            random_seed=seed,
            compile=config.merging.compile,
            statistics=folder.statistics,
            load=config.merging.load_options,
        ),
        ExportOptions(max_shard_size, card=card, mergekit_compatible=mergekit_compatible),
        scored=ScoredMerge(tuple(row.end_tokens), _scored_weights(folder, row)),
        digests=digests,
        progress=progress,
        note=note,
    )
    return row


def _scored_weights(folder: ResultsFolder, row: Row) -> str | None:
    """Return the digest of the weights that a row's score on the report split is of, if it has one."""
    with quiet(), storage_errors(folder), closing(Studies.open(folder)) as studies:
        of_same = None if row.same_as is None else studies.weights(row.same_as)
        return studies.weights(row.trial) or of_same


def _choose(leaderboard: Leaderboard, folder: ResultsFolder, trial: int | None) -> Row:
    number = leaderboard.best if trial is None else trial
    if number is None:
        failed = [row for row in leaderboard.rows if row.kind == "trial" and row.state == "failed"]
        if failed:
            raise SearchError(
                f"{folder.path}: there is nothing to export: {len(failed)} trials are over, and all have failed; the "
                f"last, {failed[-1].name}: {failed[-1].error}"
            )
        raise SearchError(f"{folder.path}: no trial has been scored yet; run the search first")
    for row in leaderboard.rows:
        if row.trial == number:
            if row.state == "failed":
                raise SearchError(f"{folder.path}: trial {number} failed: {row.error}; choose another with --trial")
            return row
    highest = max((row.trial for row in leaderboard.rows), default=None)
    known = "none is over yet" if highest is None else f"the last is {highest}"
    if highest is not None and number < highest:
        known += f"; {number} still runs, or was lost with its worker and run again under a later number"
    raise SearchError(f"{folder.path}: has no trial {number} that is over; {known}")


def _decoding(settings: EvaluationSection) -> str:
    if not settings.temperature:
        return "greedy"
    return f"{settings.samples} samples a problem at temperature {settings.temperature:g} and top_p {settings.top_p:g}"


def _problems(settings: EvaluationSection) -> str:
    weighed = len(settings.problems) > 1
    named = ((Path(entry.source).name, f" (weight {entry.weight:g})" * weighed) for entry in settings.problems)
    return ", ".join(f"`{name}`{weight}" for name, weight in named)


def _evidence(row: Row, leaderboard: Leaderboard, settings: EvaluationSection, computed: str) -> str:
    lines = [
        "",
        "## Scores",
        "",
        f"pass@1, {_decoding(settings)}, prompt format `{settings.prompt.format}`, problems {_problems(settings)}, up "
        f"to {settings.max_new_tokens} new tokens, computed in {computed}.",
        "",
        "| split | score | 95% interval |",
        "|---|---|---|",
        f"| search (chosen on it) | {row.search_score or 0:.1%} | |",
    ]
    if row.report_score is not None and row.report_interval is not None:
        low, high = row.report_interval
        lines.append(f"| report (never seen by the search) | {row.report_score:.1%} | {low:.1%} to {high:.1%} |")
    if row.p_value is not None and leaderboard.best_parent:
        lines += [
            "",
            f"Against the best parent (`{leaderboard.best_parent}`) on the report split: {row.won} problems won, "
            f"{row.lost} lost, exact McNemar p = {row.p_value:.2g}.",
        ]
    return "\n".join([*lines, ""])
