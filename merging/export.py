"""Export: runs a plan shard by shard to disk, with all that `from_pretrained` needs.

Guarantees: the tensors are bit-identical to those that `Merger.apply` makes of the same recipe and seed; the folder
appears under its name only when it is whole; an existing folder is left as it was.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from merging import compatible
from merging.calibration import calibrate
from merging.checkpoint import locate
from merging.errors import MergingError
from merging.kernel import output_dtype, run_steps
from merging.models import generation_config, merged_config
from merging.parents import ParentSet
from merging.plan import Plan, Step, make_plan
from merging.recipe import Recipe
from merging.tokenizers import merged_tokenizer, save_tokenizer

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def export_model(
    recipe: Recipe,
    to: Path,
    *,
    random_seed: int = 0,
    device: str = "cpu",
    max_shard_size: str = "5GB",
    card: str | None = None,
    mergekit_compatible: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Merge a recipe into a folder: recipe.yaml, safetensors, configs, tokenizer and model card.

    With `mergekit_compatible`, and a method that mergekit does not have, all this goes into its folder ``delta``, and
    beside that a recipe.yaml that mergekit makes the same tensors of.

    Args:
        recipe: the merge.
        to: the folder to make; it must not exist, or be empty.
        random_seed: the seed of methods that draw random numbers.
        device: where to merge.
        max_shard_size: the most that one file of weights may hold, such as ``5GB``.
        card: the text of the model card; by default one that shows the recipe.
        mergekit_compatible: whether mergekit must be able to read what is exported.
        progress: called with (phase, done, in all).

    Raises:
        MergingError: the recipe does not fit its parents, the folder is taken, or the disk is full.
    """
    limit = _bytes(max_shard_size)
    _check_free(to)
    with ParentSet.open(recipe, device, progress) as parents:
        plan = make_plan(recipe, parents)
        merged_tokenizer(recipe, parents)  # raises where it cannot be had
        calibrate(plan.steps, parents, progress)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            _check_space(to, _total_bytes(plan, parents) + _size_of_the_rest(recipe))
            part = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".part", dir=to.parent))
        except OSError as error:
            raise _unwritable(to, error) from None
        try:
            folder = part
            if mergekit_compatible and not recipe.method.in_mergekit:
                folder = part / compatible.DELTA
                folder.mkdir()
                _write_equivalent(recipe, plan, parents, part, to)
            _write_weights(plan, parents, folder, limit, random_seed, progress)
            _write_configs(recipe, plan, parents, folder)
            save_tokenizer(recipe, folder)
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            (folder / "README.md").write_text(card or model_card(recipe, to.name, random_seed), encoding="utf-8")
            part.chmod(0o755)  # mkdtemp makes it private
            part.rename(to)  # an empty folder of that name is replaced
        except OSError as error:
            raise _unwritable(to, error) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unwritable(to: Path, error: OSError) -> MergingError:
    return MergingError(f"{to}: cannot be written: {error.strerror or error}; nothing was left there")


def model_card(recipe: Recipe, name: str, random_seed: int, evidence: str = "") -> str:
    """Return a model card: metadata as the hub reads it, the recipe, and what is known about its scores."""
    front = [
        "---",
        "base_model:",
        *(f"- {model}" for model in recipe.parents()),
        "library_name: transformers",
    ]
    in_mergekit = recipe.method.in_mergekit
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
    parents: ParentSet,
    folder: Path,
    limit: int,
    random_seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    shards = list(_shards(plan.steps, parents, limit))
    index: dict[str, str] = {}

    def done(step: Step) -> None:
        index[step.name] = file
        if progress:
            progress("merging", len(index), len(plan.steps))

    for number, steps in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {step.name: torch.empty(_shape(step, parents), dtype=output_dtype(step, parents)) for step in steps}
        run_steps([(step, tensors[step.name]) for step in steps], parents, random_seed, None, done)
        _save(tensors, folder / file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": _total_bytes(plan, parents)}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_equivalent(recipe: Recipe, plan: Plan, parents: ParentSet, folder: Path, to: Path) -> None:
    dtype = reduce(torch.promote_types, (output_dtype(step, parents) for step in plan.steps))
    same_layers = plan.layers == parents.layers(recipe.donor)
    written = compatible.equivalent(recipe, to.resolve() / compatible.DELTA, dtype, same_layers)
    (folder / "recipe.yaml").write_text(written.to_yaml(), encoding="utf-8")
    (folder / "README.md").write_text(compatible.card(recipe, written, to.resolve().name), encoding="utf-8")


def _write_configs(recipe: Recipe, plan: Plan, parents: ParentSet, folder: Path) -> None:
    donor = parents.checkpoints[recipe.donor]
    merged_config(donor, plan.layers, output_dtype(plan.steps[0], parents)).save_pretrained(folder)
    file = donor.folder / "generation_config.json"
    if file.exists():  # copied: transformers refuses to save what many models have (a temperature without sampling)
        shutil.copyfile(file, folder / file.name)
    else:
        generation_config(donor).save_pretrained(folder)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except Exception as error:  # safetensors reports a full disk as an exception of its own
        raise OSError(None, str(error)) from None


def _shards(steps: Sequence[Step], parents: ParentSet, limit: int) -> Iterator[list[Step]]:
    shard: list[Step] = []
    size = 0
    for step in steps:
        more = _step_bytes(step, parents)
        if shard and size + more > limit:
            yield shard
            shard, size = [], 0
        shard.append(step)
        size += more
    yield shard


def _shape(step: Step, parents: ParentSet) -> torch.Size:
    source = step.sources()[0]
    return parents.tensor(source.parent, source.tensor).shape


def _step_bytes(step: Step, parents: ParentSet) -> int:
    return _shape(step, parents).numel() * output_dtype(step, parents).itemsize


def _total_bytes(plan: Plan, parents: ParentSet) -> int:
    return sum(_step_bytes(step, parents) for step in plan.steps)


def _check_free(to: Path) -> None:
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise MergingError(f"{to}: exists already and is not empty; choose another folder, or remove it first")


def _check_space(to: Path, needed: int) -> None:
    free = shutil.disk_usage(to.parent).free
    if free < needed:
        raise MergingError(
            f"{to}: the export needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "make room or choose another folder"
        )


def _size_of_the_rest(recipe: Recipe) -> int:
    files = [file for file in locate(recipe.donor).iterdir() if file.is_file() and file.suffix != ".safetensors"]
    return sum(file.stat().st_size for file in files)


def _bytes(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit) and text[: -len(unit)].strip().replace(".", "", 1).isdigit():
            size = int(float(text[: -len(unit)]) * factor)
            if size > 0:
                return size
    raise MergingError(f"max_shard_size: {text!r} is no size; write it like 5GB or 500MB")
