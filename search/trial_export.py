"""The export of a scored merge as a model folder, with its evidence in the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merging import Recipe, renamed
from search.board.leaderboard import Leaderboard, Row
from search.board.names import find_record, record_name
from search.board.ranking import best
from search.counts import counted
from search.devices import choose_device
from search.errors import SearchError
from search.publishing.card import command_section, export_command, scores_section
from search.results import ResultsFolder
from search.space.sections import Sections
from search.startup import quick_imports
from search.study.record import TrialRecord

if TYPE_CHECKING:
    from search.prompt_formats import Tried
    from search.rescoring import Candidate
    from search.tokenizer_choice import TokenizerChoice


def export_trial(
    path: str | Path,
    to: str | Path,
    *,
    trial: int | str | None = None,
    anyway: bool = False,
    max_shard_size: str = "5GB",
    mergekit_compatible: bool = False,
    tokenizer: str | None = None,
    allow_code_execution: bool = False,
    for_hub: bool = False,
    show: Callable[[Sequence[Tried]], None] | None = None,
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
        tokenizer: the parent whose tokenizer is written in place of the recipe's; or ``best``: scores the model under
            each, in each prompt format, on the search split.
        allow_code_execution: consent for that, if the config does not give it.
        for_hub: whether it will be published: then the hub is asked for the parents' licences, and a folder that
            already holds this export stays as it is.
        show: called with what ``best`` has compared.
        progress: called with (phase, done, total).
        note: called with notes for the user, in sentences.

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
    with quick_imports():  # only now: the errors above must not wait for torch
        from merging import ExportOptions, FileDigests, MergeOptions, ScoredMerge, export_model, model_card
        from search.contents import find
        from search.publishing.parent_models import metadata, parent_models, parents_section
        from search.rescoring import Candidate

    digests = FileDigests()
    places = find(folder.identity, record.recipe, folder.path, digests, config.merging, progress)
    recipe = Recipe.from_dict(renamed(record.recipe, places), f"{folder.path}: {row.name}")
    target = Path(to)
    words = ["--trial", record_name(record).removeprefix("trial ") if record.kind == "trial" else str(trial)]
    words += ["--mergekit-compatible"] * mergekit_compatible
    words += ["--tokenizer", Path(tokenizer).name if Path(tokenizer).is_absolute() else tokenizer] if tokenizer else []
    command = export_command(folder.path, words)
    if for_hub and _is_exported(target, recipe, command):
        if note:
            note(f"{target}: holds this export already, so it is not made again")
        return row
    chosen = None
    if tokenizer:
        merge = Candidate(folder, record, places, digests, progress or (lambda *_: None))
        chosen = _chosen(merge, tokenizer, allow_code_execution, note or (lambda _: None))
        if show and chosen.tried:
            show(chosen.tried)
    seed = config.merging.random_seed
    device = choose_device(config.merging.device, f"{folder.config_file}: merging.device")
    computed = "the model's own dtype" if folder.compute_dtype == "recipe" else folder.compute_dtype
    parents = parent_models(recipe, for_hub)
    card = model_card(
        recipe,
        target.resolve().name,
        seed,
        scores_section(row, leaderboard, config.evaluation, computed, folder.confirmation)
        + (chosen.section if chosen else ""),
        metadata=metadata(parents),
        sections=command_section(command, target) + parents_section(parents),
    )
    ends = record.end_tokens if chosen is None or chosen.end_tokens is None else chosen.end_tokens
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
        ExportOptions(
            max_shard_size,
            card=card,
            mergekit_compatible=mergekit_compatible,
            tokenizer=chosen.owner if chosen else None,
        ),
        scored=ScoredMerge(ends, record.weights_digest or first.weights_digest),
        digests=digests,
        progress=progress,
        note=note,
    )
    is_of_the_search = trial is None and verdict.trial is None  # the verdict is on no single trial
    if note and record.kind == "trial" and (verdict.trial == record.number or is_of_the_search):
        note(verdict.sentence)
    return row


def _chosen(
    merge: Candidate, tokenizer: str, allow_code_execution: bool, note: Callable[[str], None]
) -> TokenizerChoice:
    from search.tokenizer_choice import BEST, best_tokenizer, named_tokenizer

    if tokenizer == BEST:
        return best_tokenizer(merge, allow_code_execution, note)
    return named_tokenizer(merge, tokenizer)


def _is_exported(to: Path, recipe: Recipe, command: str) -> bool:
    """Whether a folder holds a whole export of a recipe, made by this command: it gets its name only when complete."""
    from merging.export.mergekit_equivalent import DELTA

    model = to / DELTA if (to / DELTA).is_dir() else to
    try:
        is_same = (model / "recipe.yaml").read_text(encoding="utf-8") == recipe.to_yaml()
        return is_same and f"{command} --to " in (model / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


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
            f"{path}: there is nothing to export: "
            f"{counted(len(failed), 'trial is over, and has', 'trials are over, and all have')} failed; the last, "
            f"{record_name(failed[-1])}: {failed[-1].search.error}"
        )
    raise SearchError(f"{path}: no trial has been scored yet; run the search first")
