"""Re-opening: an export is read as any user would read it, before it counts as done.

Guarantees: the files hold the merged tensors, by name, shape and dtype. The model that transformers builds from the
config has exactly these tensors, and its answers end at the same tokens as in scoring. Reads only headers, unless the
merge was scored.
"""

from __future__ import annotations

from pathlib import Path

from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.fit import check_fit
from merging.errors import MergingError
from merging.export.shards import pieces_of
from merging.merged_config import loaded_end_tokens
from merging.parents import ParentSet
from merging.planning.plan import Plan
from merging.recipes.recipe import Recipe
from merging.tokenization.special_tokens import SpecialTokens
from merging.weights_digest import digest_of_files


def check_export(
    folder: Path,
    recipe: Recipe,
    plan: Plan,
    parents: ParentSet,
    special: SpecialTokens | None,
    weights_digest: str | None,
) -> None:
    """Check an export by reading it as a stranger would.

    Args:
        folder: where it was written.
        recipe: the merge.
        plan: its plan.
        parents: its parents, open.
        special: its special tokens, if they are not those of its config source.
        weights_digest: the digest of the scored weights, if they were scored.

    Raises:
        MergingError: it would not load as the merge, or differs from what was scored.
    """
    merge = Checkpoint.open(str(folder), parents.options)
    layout = parents.architecture.layout
    entries = (piece for entry in plan.entries for piece in pieces_of(entry, layout.disassemble))
    wanted = {entry.name: (entry.shape, entry.dtype) for entry in entries}
    found = {name: (each.shape, each.dtype) for name, each in merge.tensors.items()}
    if different := [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]:
        raise MergingError(f"tensor {min(different)} is not in the files as it was merged")
    check_fit(assemble(merge, merge), merge.architecture)
    dtype = str(plan.model_dtype).removeprefix("torch.")
    if (loaded := merge.config.to_dict().get("dtype")) != dtype:
        raise MergingError(f"it would load in {loaded}, but was scored in {dtype}")
    end_tokens = loaded_end_tokens(parents.checkpoints[recipe.config_source], special)
    if (ids := loaded_end_tokens(merge, None)) != end_tokens:
        raise MergingError(f"its answers would end at the tokens {ids}, but ended at {end_tokens} when it was scored")
    if weights_digest and digest_of_files(merge.tensors, plan, parents) != weights_digest:
        raise MergingError(
            "its weights differ from those that were scored, although the parents are the same; export it where the "
            "search ran, since another device, processor or version may round differently"
        )
