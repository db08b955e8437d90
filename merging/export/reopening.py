"""Re-opening: an export is read as any user would read it, before it is called done.

Guarantees: the files hold the merged tensors, by name, shape and dtype. The model that transformers builds from the
config asks for exactly these tensors, and its answers end at the same tokens as when it was scored. Reads headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.fit import check_fit
from merging.checkpoints.headers import TensorEntry
from merging.errors import MergingError
from merging.merged_config import loaded_end_tokens
from merging.options import LoadOptions


def check_written(
    folder: Path, entries: Iterable[TensorEntry], dtype: torch.dtype, end_tokens: object, options: LoadOptions
) -> Checkpoint:
    """Check a merge that was written, and return it.

    Args:
        folder: where it was written.
        entries: the tensors that its files shall hold.
        dtype: what it was scored in.
        end_tokens: the ids that ended what it wrote then.
        options: what opening it may do.

    Raises:
        MergingError: it would not load as what was merged.
    """
    merge = Checkpoint.open(str(folder), options)
    wanted = {entry.name: (entry.shape, entry.dtype) for entry in entries}
    found = {name: (each.shape, each.dtype) for name, each in merge.tensors.items()}
    if different := [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]:
        raise MergingError(f"tensor {min(different)} is not in the files as it was merged")
    check_fit(assemble(merge, merge), merge.architecture)
    wanted_dtype = str(dtype).removeprefix("torch.")
    if (loaded := merge.config.to_dict().get("dtype")) != wanted_dtype:
        raise MergingError(f"it would be loaded in {loaded}, and was scored in {wanted_dtype}")
    if (ids := loaded_end_tokens(merge, None)) != end_tokens:
        raise MergingError(f"it would end at the tokens {ids}, and what was scored ended at {end_tokens}")
    return merge
