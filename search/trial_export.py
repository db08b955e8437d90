"""Export: a merge that was scored, as a model folder, with its evidence in the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from merging import Recipe, parts_of, renamed, short_names
from search.board.leaderboard import Leaderboard, Row, shown_by_seed
from search.board.names import find_record, record_name
from search.board.ranking import best
from search.devices import choose_device
from search.errors import SearchError
from search.results import ResultsFolder
from search.space.sections import EvaluationSection, Sections
from search.startup import quick_imports
from search.study.confirmation import Confirmation
from search.study.record import TrialRecord


def export_trial(
    path: str | Path,
    to: str | Path,
    *,
    trial: int | str | None = None,
    anyway: bool = False,
    max_shard_size: str = "5GB",
    mergekit_compatible: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Row:
    """Write the model of a trial into a folder, by default that of the proven trial, or else of the best.

    Args:
        path: the results folder.
        to: the folder to make.
        trial: the trial's number; or the name of a parent, or ``average``.
        anyway: export the best trial even if the verdict is that it is no better than the best parent.
        max_shard_size: the most that one file of weights may hold.
        mergekit_compatible: whether mergekit must be able to read what is exported.
        progress: called with (phase, done, in all).
        note: called with what a person should know of the export, in sentences.

    Returns:
        The row of the leaderboard that was exported.

    Raises:
        SearchError: there is no such model, or it is no better than a parent. MergingError: the merge cannot be made
            or written.
    """
    folder = ResultsFolder.open(Path(path))
    study, records, splits, looks = folder.read()
    leaderboard = Leaderboard.of(study, records, splits, looks)
    verdict = leaderboard.verdict
    winner = verdict.trial if trial is None and verdict.ruling == "proven" else trial
    record = _choose(records, folder.path, winner)
    if trial is None and verdict.ruling == "no better" and not anyway:
        raise SearchError(f"{folder.path}: {verdict.sentence}; --anyway exports it all the same")
    row = leaderboard.row(record)
    first = record if record.same_as is None else find_record(records, str(record.same_as), folder.path)
    config = Sections.load(folder.config_file)
    with quick_imports():  # only now: what cannot be exported is told before torch is waited for
        from merging import ExportOptions, FileDigests, MergeOptions, ScoredMerge, export_model, model_card
        from search.contents import find

    digests = FileDigests()
    places = find(folder.identity, record.recipe, folder.path, digests, config.merging, progress)
    recipe = Recipe.from_dict(renamed(record.recipe, places), f"{folder.path}: {row.name}")
    seed = config.merging.random_seed
    device = choose_device(config.merging.device, f"{folder.config_file}: merging.device")
    target = Path(to)
    computed = "the model's own dtype" if folder.compute_dtype == "recipe" else folder.compute_dtype
    evidence = _evidence(row, leaderboard, config.evaluation, computed, folder.confirmation)
    card = model_card(recipe, target.resolve().name, seed, evidence)
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
        scored=ScoredMerge(record.end_tokens, record.weights_digest or first.weights_digest),
        digests=digests,
        progress=progress,
        note=note,
    )
    is_of_the_search = trial is None and verdict.trial is None  # which has no trial to be about
    if note and record.kind == "trial" and (verdict.trial == record.number or is_of_the_search):
        note(verdict.sentence)
    return row


def _choose(records: Sequence[TrialRecord], path: Path, called: int | str | None) -> TrialRecord:
    """Return the record that is to be exported. Raises SearchError if it has no merge to export."""
    record = best(records) if called is None else find_record(records, str(called), path)
    if record and record.search.state == "failed":
        reason = f"{record_name(record)} failed: {record.search.error}"
        raise SearchError(f"{path}: {reason}; choose another with --trial")
    if record:
        return record
    failed = [each for each in records if each.kind == "trial" and each.search.state == "failed"]
    if failed:
        raise SearchError(
            f"{path}: there is nothing to export: {len(failed)} trials are over, and all have failed; the last, "
            f"{record_name(failed[-1])}: {failed[-1].search.error}"
        )
    raise SearchError(f"{path}: no trial has been scored yet; run the search first")


def _decoding(settings: EvaluationSection) -> str:
    if not settings.temperature:
        return "greedy"
    return (
        f"{settings.samples} samples per problem at temperature {settings.temperature:g} and top_p {settings.top_p:g}"
    )


def _problems(settings: EvaluationSection) -> str:
    weighed = len(settings.problems) > 1
    named = ((Path(entry.source).name, f" (weight {entry.weight:g})" * weighed) for entry in settings.problems)
    return ", ".join(f"`{name}`{weight}" for name, weight in named)


def _evidence(
    row: Row,
    leaderboard: Leaderboard,
    settings: EvaluationSection,
    computed: str,
    confirmation: Confirmation | None,
) -> str:
    lines = [
        "",
        "## Scores",
        "",
        f"pass@1, {_decoding(settings)}, prompt format `{settings.prompt.format}`, problems {_problems(settings)}, up "
        f"to {settings.max_new_tokens} new tokens, computed in {computed}.",
        "",
        "| split | score | 95% interval |",
        "|---|---|---|",
        f"| search (chosen on it) | {row.record.search.score or 0:.1%} | |",
    ]
    report_score = row.record.on("report").score
    if report_score is not None and row.report_interval is not None:
        low, high = row.report_interval
        lines.append(f"| report (never seen by the search) | {report_score:.1%} | {low:.1%} to {high:.1%} |")
    if confirmation and (score := row.record.on("confirm").score) is not None:
        how = f" at temperature {confirmation.temperature:g}" if confirmation.temperature else ", greedy"
        lines.append(f"| confirmation ({leaderboard.confirmed_on}{how}) | {score:.1%} | |")
    if by_seed := row.record.on("confirm").by_seed:
        lines += ["", f"The merge draws random numbers: {shown_by_seed(by_seed)}."]
    if row.p_value is not None and leaderboard.best_parent:
        lines += [
            "",
            f"Against the best parent (`{_called(leaderboard.best_parent, leaderboard)}`) on the report split: "
            f"{row.won} problems won, {row.lost} lost, exact McNemar p = {row.p_value:.2g}.",
        ]
    if leaderboard.verdict.trial == row.record.number and row.record.kind == "trial":
        sentence = leaderboard.verdict.sentence
        lines += ["", f"{sentence[:1].upper()}{sentence[1:]}."]
    return "\n".join([*lines, ""])


def _called(parent: str, leaderboard: Leaderboard) -> str:
    """Return what the card calls a parent: its hub id, or a short name instead of a path."""
    if not any(Path(part).exists() for part in (parent, *parts_of(parent))):
        return parent
    return short_names(record.name for record in leaderboard.records if record.kind == "parent").get(parent, parent)
