"""Export: runs a plan shard by shard to disk, with all that `from_pretrained` needs.

Guarantees: the tensors are bit-identical to those of `Merger.apply` for the same recipe and seed. The export was
reopened and loads as the merge. The folder appears under its name only when it is complete; an existing folder stays
as it was. Memory holds a few merged tensors at a time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from merging.caches import part_folder, sweep
from merging.calibration import calibrate
from merging.checkpoints.model_files import CONFIG, GENERATION
from merging.errors import MergingError
from merging.execution import run_steps
from merging.export.disk_space import check_free, check_space, shard_limit, size_of_the_rest
from merging.export.mergekit_equivalent import DELTA, equivalent, mergekit_card
from merging.export.model_card import model_card
from merging.export.reopening import check_export
from merging.export.shards import Destination, write_shard
from merging.kernels import Kernels
from merging.kernels.choose import choose_kernels
from merging.merged_config import config_text, ends_besides, generation_config_text
from merging.methods import METHODS
from merging.notes import notes_of
from merging.options import MERGE, MergeOptions
from merging.parents import ParentSet
from merging.planning.plan import Plan, Step
from merging.recipes.recipe import Recipe
from merging.sizes import runs
from merging.statistics.digests import FileDigests
from merging.tokenization.merged_tokenizer import MergedTokenizer
from merging.tokenization.own_code import code_beside
from merging.tokenization.special_tokens import SpecialTokens
from merging.tokenization.tokenizers import has_tokenizer


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export writes.

    Attributes:
        max_shard_size: the most that one file of weights may hold, such as ``5GB`` (or ``5B``, as in mergekit).
        write_model_card: whether to write a model card.
        card: the model card's text; by default it shows the recipe.
        copy_tokenizer: whether a merge whose recipe names no tokenizer gets that of its base.
        mergekit_compatible: whether mergekit must be able to read what is exported.
        tokenizer: the model whose tokenizer and ids of special tokens are written instead of the recipe's.
    """

    max_shard_size: str = "5GB"
    write_model_card: bool = True
    card: str | None = None
    copy_tokenizer: bool = True
    mergekit_compatible: bool = False
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredMerge:
    """Facts about a merge that was scored.

    Attributes:
        end_tokens: ids that ended an answer beyond the tokenizer's own, for generation_config.json.
        weights_digest: what `Merger.weights_digest` returned.
    """

    end_tokens: tuple[int, ...] = ()
    weights_digest: str | None = None


def export_model(
    recipe: Recipe,
    to: Path,
    options: MergeOptions = MERGE,
    files: ExportOptions = ExportOptions(),
    *,
    scored: ScoredMerge = ScoredMerge(),
    digests: FileDigests | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Merge a recipe into a folder: recipe.yaml, safetensors, configs, tokenizer and model card.

    config.json and generation_config.json have the tokenizer's ids of special tokens; the latter also lists the token
    with which the chat template closes an answer. With `mergekit_compatible` and a method that mergekit lacks, all this
    goes into the folder ``delta``, beside a recipe.yaml from which mergekit makes the same tensors.

    Args:
        recipe: the merge.
        to: the folder to make; it must be empty or not exist.
        options: how and where to merge; statistics are read only, and no parent is kept in memory.
        files: what to write.
        scored: facts about the merge, if it was scored.
        digests: digests of the parents' files, to share them with other callers.
        progress: called with (phase, done, in all).
        note: called with sentences for the user.

    Raises:
        MergingError: the recipe does not fit its parents, the folder is taken, the disk is full, or the export would
            not load as the merge, or differs from what was scored.
    """
    limit = shard_limit(files.max_shard_size)
    check_free(to)
    to = to.resolve()  # a link to an empty folder stays, and its target is filled
    if progress:
        progress("opening the parents; the first time, transformers is asked about the model", 0, 1)
    # Every tensor is merged once, so keeping parents would cost memory and save nothing.
    with (
        ParentSet.open(recipe, replace(options, memory_budget=0), digests=digests) as parents,
        contextlib.ExitStack() as parts,
    ):
        choice = choose_kernels(parents.elements, parents.device, options.compile)
        plan = Plan.of(recipe, parents)
        steps = plan.at(recipe)
        if note:
            for sentence in (*notes_of(recipe, plan, parents, written=True), *filter(None, [choice.note])):
                note(sentence)
        tokenizer = _tokenizer(recipe, plan, parents, files)
        code = _code(parents, recipe.config_source, tokenizer)
        calibrate(steps, parents, progress)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            sweep(to.parent, f".{glob.escape(to.name)}.*.part")
            check_space(to, _total_bytes(plan) + size_of_the_rest(parents.checkpoints[recipe.config_source].folder))
            part = parts.enter_context(part_folder(to))
        except OSError as error:
            raise _unwritable(to, error) from None
        try:
            folder = part
            if files.mergekit_compatible and not METHODS[recipe.merge_method].in_mergekit:
                folder = part / DELTA
                folder.mkdir()
                _write_equivalent(recipe, plan, parents, part, to, files.write_model_card)
            _write_weights(plan, steps, parents, folder, limit, options.random_seed, choice.kernels, progress)
            special = tokenizer.special.ending(scored.end_tokens) if tokenizer else None
            _write_configs(recipe, plan, parents, folder, special)
            for file in code:
                shutil.copyfile(file, folder / file.name)
            if tokenizer and special:
                tokenizer.save(folder)
                if note and (ends := ends_besides(parents.checkpoints[recipe.config_source], special)):
                    note(_of_ends(tokenizer, ends))
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            if progress:
                progress("opening what was written", 0, 1)
            try:
                check_export(folder, recipe, plan, parents, special, scored.weights_digest)
            except MergingError as error:
                reason = str(error).replace(str(folder), str(to))
                raise MergingError(f"{to}: was not exported, and nothing was left there: {reason}") from None
            if files.write_model_card:
                card = files.card or model_card(recipe, to.name, options.random_seed)
                (folder / "README.md").write_text(card, encoding="utf-8")
            part.chmod(0o755)  # private while it is made
            part.rename(to)  # an empty folder of that name is replaced
        except OSError as error:
            check_free(to)  # another export may have filled it meanwhile
            raise _unwritable(to, error) from None


def _tokenizer(recipe: Recipe, plan: Plan, parents: ParentSet, files: ExportOptions) -> MergedTokenizer | None:
    copy_tokenizer = files.copy_tokenizer
    if files.tokenizer:
        rows = plan.rows or parents.shape(recipe.config_source, parents.architecture.embedding)[0]
        return MergedTokenizer.lent(files.tokenizer, rows, parents.options)
    if recipe.vocabulary_source or (copy_tokenizer and has_tokenizer(parents.checkpoints[recipe.config_source].folder)):
        return MergedTokenizer.of(recipe, parents)
    if copy_tokenizer:
        raise MergingError(
            f"model {recipe.config_source}: has no tokenizer for the merge; name a model that has one as "
            "tokenizer_source, or leave it out with --no-copy-tokenizer"
        )
    if recipe.chat_template:
        raise MergingError(
            "chat_template: needs a tokenizer, but --no-copy-tokenizer leaves it out; remove one of the two"
        )
    return None


def _unwritable(to: Path, error: OSError) -> MergingError:
    reason = error.strerror or error
    return MergingError(
        f"{to}: cannot be written: {reason}; nothing was left there; make room or choose another folder"
    )


def _write_weights(
    plan: Plan,
    steps: Sequence[Step],
    parents: ParentSet,
    folder: Path,
    limit: int,
    random_seed: int,
    kernels: Kernels,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    by_name = {step.name: step for step in steps}
    shards = list(runs(plan.entries, lambda entry: entry.nbytes, limit))
    layout = parents.architecture.layout
    index: dict[str, str] = {}
    merged = 0

    def fill(places: Mapping[str, Destination]) -> None:
        run_steps([(by_name[name], place) for name, place in places.items()], parents, random_seed, kernels, done)

    def done(_: Step) -> None:
        nonlocal merged
        merged += 1
        if progress:
            progress("merging", merged, len(steps))

    if progress:
        progress("compiling, the first time for a dtype" if kernels.compiles else "merging", 0, len(steps))
    for number, entries in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(write_shard(folder / file, entries, fill, layout.disassemble), file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": _total_bytes(plan)}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_equivalent(
    recipe: Recipe, plan: Plan, parents: ParentSet, folder: Path, to: Path, write_model_card: bool
) -> None:
    dtypes = {entry.dtype for entry in plan.entries}
    same_shapes = plan.layers == parents.layers(recipe.config_source) and plan.rows is None
    written = equivalent(recipe, to.resolve() / DELTA, dtypes, same_shapes)
    (folder / "recipe.yaml").write_text(written.to_yaml(), encoding="utf-8")
    if write_model_card:
        (folder / "README.md").write_text(mergekit_card(recipe, written, to.resolve().name), encoding="utf-8")


def _write_configs(recipe: Recipe, plan: Plan, parents: ParentSet, folder: Path, special: SpecialTokens | None) -> None:
    config_source = parents.checkpoints[recipe.config_source]
    config = config_text(config_source, plan, parents, special)
    (folder / CONFIG).write_text(config, encoding="utf-8")
    (folder / GENERATION).write_text(generation_config_text(config_source, special), encoding="utf-8")


def _code(parents: ParentSet, config_source: str, tokenizer: MergedTokenizer | None) -> Sequence[Path]:
    """Return the Python files that the export's config and tokenizer need. Raises MergingError if two have one name."""
    if not parents.options.trust_remote_code:
        return []
    folder = parents.checkpoints[config_source].folder
    return [*folder.glob("*.py"), *(code_beside(tokenizer.source, folder) if tokenizer else ())]


def _of_ends(tokenizer: MergedTokenizer, ends: Sequence[int]) -> str:
    names = ", ".join(map(str, tokenizer.tokenizer.convert_ids_to_tokens(list(ends))))
    return (
        f"generation_config.json also lists {names} as an end (eos_token_id): the chat template ends an answer with it"
    )


def _total_bytes(plan: Plan) -> int:
    return sum(entry.nbytes for entry in plan.entries)
