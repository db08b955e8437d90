"""Export: runs a plan shard by shard to disk, with all that `from_pretrained` needs.

Guarantees: the tensors are bit-identical to those that `Merger.apply` makes of the same recipe and seed; what was
written was opened again, and would load as what was merged; the folder appears under its name only when it is whole; an
existing folder is left as it was; what is written is in memory a few tensors at a time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from merging import compatible
from merging.caches import part_folder, sweep
from merging.calibration import calibrate
from merging.checkpoints.checkpoint import CONFIG, GENERATION
from merging.compiling import choose_kernels
from merging.errors import MergingError
from merging.execution import run_steps
from merging.inductor import AnyKernels
from merging.methods import METHODS
from merging.models import config_text, ends_besides, generation_config_text, loaded_end_tokens
from merging.options import MERGE, MergeOptions
from merging.parents import ParentSet
from merging.planning.plan import Plan, Step
from merging.recipes.recipe import Recipe
from merging.reopening import check_written
from merging.shards import Place, pieces_of, split, write_shard
from merging.statistics.digests import FileDigests
from merging.tokenization.merged_tokenizer import MergedTokenizer
from merging.tokenization.special_tokens import SpecialTokens
from merging.tokenization.tokenizers import has_tokenizer
from merging.unread import unread, unread_notes
from merging.weights_digest import digest_of_files

_SIZES = (("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("bytes", 1))
# Of the donor's files, those that may come with the weights.
_COPIED = (".json", ".jinja", ".model", ".txt", ".py")
# mergekit-yaml's K, M and B (billion) are bytes, too.
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is written.

    Attributes:
        max_shard_size: the most that one file of weights may hold, such as ``5GB`` (or ``5B``, as in mergekit).
        write_model_card: whether there is a model card.
        card: its text; by default it shows the recipe.
        copy_tokenizer: whether a merge whose recipe names no tokenizer gets that of its base.
        mergekit_compatible: whether mergekit must be able to read what is exported.
    """

    max_shard_size: str = "5GB"
    write_model_card: bool = True
    card: str | None = None
    copy_tokenizer: bool = True
    mergekit_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """What was scored, where the merge was.

    Attributes:
        end_tokens: ids that ended an answer besides the tokenizer's own, for generation_config.json.
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
    scored: Scored = Scored(),
    digests: FileDigests | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Merge a recipe into a folder: recipe.yaml, safetensors, configs, tokenizer and model card.

    In config.json and generation_config.json the ids of special tokens are those of the tokenizer; the latter lists the
    token with which its chat template closes an answer, too.
    With `mergekit_compatible`, and a method that mergekit does not have, all this goes into its folder ``delta``, and
    beside that a recipe.yaml that mergekit makes the same tensors of.

    Args:
        recipe: the merge.
        to: the folder to make; it must not exist, or be empty.
        options: how and where to merge; statistics are read only, and no parent is kept in memory.
        files: what is written.
        scored: what was scored.
        digests: of the parents' files, where somebody else needs these, too.
        progress: called with (phase, done, in all).
        note: called with what a user should know, in sentences.

    Raises:
        MergingError: the recipe does not fit its parents, the folder is taken, the disk is full, or what was written
            would not load as what was merged, or is not what was scored.
    """
    limit = _bytes(files.max_shard_size)
    _check_free(to)
    to = to.resolve()  # a link to an empty folder is filled, and stays
    if progress:
        progress("opening the parents; what transformers says of a model is asked once and kept", 0, 1)
    # Every tensor is merged once: to keep it would cost memory and save nothing.
    with (
        ParentSet.open(recipe, replace(options, memory_budget=0), digests=digests) as parents,
        contextlib.ExitStack() as parts,
    ):
        choice = choose_kernels(parents.elements, parents.device, options.compile)
        plan = Plan.of(recipe, parents)
        steps = plan.at(recipe)
        if note:
            notes = (
                *parents.notes,
                *parents.generation_notes(recipe.donor),
                *unread_notes(unread(recipe, plan, parents), recipe.at),
            )
            for sentence in (*notes, *filter(None, [choice.note])):
                note(sentence)
        tokenizer = _tokenizer(recipe, parents, files.copy_tokenizer)
        calibrate(steps, parents, progress)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            sweep(to.parent, f".{glob.escape(to.name)}.*.part")
            _check_space(to, _total_bytes(plan) + _size_of_the_rest(parents.checkpoints[recipe.donor].folder))
            part = parts.enter_context(part_folder(to))
        except OSError as error:
            raise _unwritable(to, error) from None
        try:
            folder = part
            if files.mergekit_compatible and not METHODS[recipe.merge_method].in_mergekit:
                folder = part / compatible.DELTA
                folder.mkdir()
                _write_equivalent(recipe, plan, parents, part, to, files.write_model_card)
            _write_weights(plan, steps, parents, folder, limit, options.random_seed, choice.kernels, progress)
            special = tokenizer.special.ending(scored.end_tokens) if tokenizer else None
            _write_configs(recipe, plan, parents, folder, special)
            if tokenizer and special:
                tokenizer.save(folder)
                if note and (ends := ends_besides(parents.checkpoints[recipe.donor], special)):
                    note(_of_ends(tokenizer, ends))
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            if progress:
                progress("opening what was written", 0, 1)
            try:
                _reopen(recipe, plan, parents, folder, special, scored.weights_digest)
            except MergingError as error:
                reason = str(error).replace(str(folder), str(to))
                raise MergingError(f"{to}: was not exported, and nothing was left there: {reason}") from None
            if files.write_model_card:
                card = files.card or model_card(recipe, to.name, options.random_seed)
                (folder / "README.md").write_text(card, encoding="utf-8")
            part.chmod(0o755)  # private while it is made
            part.rename(to)  # an empty folder of that name is replaced
        except OSError as error:
            raise _unwritable(to, error) from None


def _tokenizer(recipe: Recipe, parents: ParentSet, copy_tokenizer: bool) -> MergedTokenizer | None:
    if recipe.vocabulary_source or (copy_tokenizer and has_tokenizer(recipe.donor)):
        return MergedTokenizer.of(recipe, parents)
    if copy_tokenizer:
        raise MergingError(
            f"model {recipe.donor}: has no tokenizer for the merge; name a model that has one as tokenizer_source, or "
            "leave it out with --no-copy-tokenizer"
        )
    if recipe.chat_template:
        raise MergingError(
            "chat_template: has no tokenizer to go with, since --no-copy-tokenizer leaves it out; drop one of the two"
        )
    return None


def _unwritable(to: Path, error: OSError) -> MergingError:
    return MergingError(f"{to}: cannot be written: {error.strerror or error}; nothing was left there")


def model_card(recipe: Recipe, name: str, random_seed: int, evidence: str = "") -> str:
    """Return a model card: metadata as the hub reads it, the recipe, and what is known about its scores."""
    front = [
        "---",
        "base_model:",
        yaml.safe_dump(list(recipe.parents()), allow_unicode=True, width=math.inf).rstrip(),
        "library_name: transformers",
    ]
    in_mergekit = METHODS[recipe.merge_method].in_mergekit
    front += ["tags:", "- merge", *(["- mergekit"] if in_mergekit else []), "- merge-search", "---"]
    again = f"`merge-search merge recipe.yaml DIR --random-seed {random_seed}` makes it again"
    again = f"`mergekit-yaml recipe.yaml DIR` or {again}." if in_mergekit else f"{again}; mergekit has no such method."
    body = f"""
# {name}

A merge of {len(recipe.parents())} models by the method `{recipe.merge_method}`, made with merge-search. Architecture
and config are those of `{recipe.donor}`.
{evidence}
## Recipe

{again}

```yaml
{recipe.to_yaml().rstrip()}
```
"""
    return "\n".join(front) + "\n" + body


def _write_weights(
    plan: Plan,
    steps: Sequence[Step],
    parents: ParentSet,
    folder: Path,
    limit: int,
    random_seed: int,
    kernels: AnyKernels | None,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    by_name = {step.name: step for step in steps}
    shards = list(split(plan.entries, limit))
    layout = parents.architecture.layout
    index: dict[str, str] = {}
    merged = 0

    def fill(places: Mapping[str, Place]) -> None:
        run_steps([(by_name[name], place) for name, place in places.items()], parents, random_seed, kernels, done)

    def done(_: Step) -> None:
        nonlocal merged
        merged += 1
        if progress:
            progress("merging", merged, len(steps))

    if progress:
        progress("compiling, the first time for a dtype" if kernels else "merging", 0, len(steps))
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
    same_shapes = plan.layers == parents.layers(recipe.donor) and plan.rows is None
    written = compatible.equivalent(recipe, to.resolve() / compatible.DELTA, dtypes, same_shapes)
    (folder / "recipe.yaml").write_text(written.to_yaml(), encoding="utf-8")
    if write_model_card:
        (folder / "README.md").write_text(compatible.card(recipe, written, to.resolve().name), encoding="utf-8")


def _write_configs(recipe: Recipe, plan: Plan, parents: ParentSet, folder: Path, special: SpecialTokens | None) -> None:
    donor = parents.checkpoints[recipe.donor]
    config = config_text(donor, plan, parents, special)
    (folder / CONFIG).write_text(config, encoding="utf-8")
    (folder / GENERATION).write_text(generation_config_text(donor, special), encoding="utf-8")
    if parents.options.trust_remote_code:
        for code in donor.folder.glob("*.py"):
            shutil.copyfile(code, folder / code.name)


def _of_ends(tokenizer: MergedTokenizer, ends: Sequence[int]) -> str:
    names = ", ".join(map(str, tokenizer.tokenizer.convert_ids_to_tokens(list(ends))))
    return (
        f"generation_config.json lists {names} as an end, too (eos_token_id): with it the chat template ends an answer"
    )


def _reopen(
    recipe: Recipe,
    plan: Plan,
    parents: ParentSet,
    folder: Path,
    special: SpecialTokens | None,
    weights_digest: str | None,
) -> None:
    """Read what was written as a stranger would. Raises MergingError if that is not what was merged, or scored."""
    layout = parents.architecture.layout
    entries = [piece for entry in plan.entries for piece in pieces_of(entry, layout.disassemble)]
    end_tokens = loaded_end_tokens(parents.checkpoints[recipe.donor], special)
    merge = check_written(folder, entries, plan.model_dtype, end_tokens, parents.options)
    if weights_digest and digest_of_files(merge.tensors, plan, parents) != weights_digest:
        raise MergingError(
            "its weights are not those that were scored, although the parents hold the same; export it where the "
            "search ran, since another device, processor or version may round otherwise"
        )


def _total_bytes(plan: Plan) -> int:
    return sum(entry.nbytes for entry in plan.entries)


def _check_free(to: Path) -> None:
    place = to.resolve()
    if place == Path.cwd() or place.is_mount():
        what = "a mount point" if place.is_mount() else "the current folder"
        raise MergingError(f"{to}: is {what}, which cannot be replaced by a whole model; give a folder in it")
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise MergingError(f"{to}: exists already and is not empty; choose another folder, or remove it first")


def _check_space(to: Path, needed: int) -> None:
    free = shutil.disk_usage(to.parent).free
    if free < needed:
        raise MergingError(
            f"{to}: the export needs {_size(needed)} and the disk has {_size(free)} free; "
            "make room or choose another folder"
        )


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which it has one."""
    unit, factor = next(((unit, factor) for unit, factor in _SIZES if count >= factor), _SIZES[-1])
    return f"{count / factor:.{2 if factor > 1 else 0}f} {unit}"


def _size_of_the_rest(donor: Path) -> int:
    """Return what the configs and the tokenizer take."""
    files = [file for file in donor.iterdir() if file.is_file() and file.suffix in _COPIED]
    return sum(file.stat().st_size for file in files)


def _bytes(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit) and text[: -len(unit)].strip().replace(".", "", 1).isdigit():
            size = int(float(text[: -len(unit)]) * factor)
            if size > 0:
                return size
    raise MergingError(f"max_shard_size: {text!r} is no size; write it like 5GB or 500MB (or 5B, 500M)")
