"""The digest of a merge's weights: equal for the live model and for its export.

It covers the name, shape, dtype and bytes of each tensor as files hold it. A tensor that the model cannot hold in its
file's dtype (32 bits in a 16-bit model) counts as the model loads it.

Guarantees: a live model that computes in a wider dtype than the recipe's has the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TypeAlias

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor
from merging.parents import ParentSet
from merging.planning.plan import Plan

# Name, shape, dtype and digest of the bytes.
_Entry: TypeAlias = tuple[str, list[int], str, str]
# Makes the tensors of a file that a tensor of the merge becomes.
_Pieces: TypeAlias = Callable[[], Mapping[str, Tensor]]


def digest_of_model(tensors: Mapping[str, Tensor], plan: Plan, parents: ParentSet) -> str:
    """Return the digest of a merge that is in a live model.

    Args:
        tensors: the model's tensors, by their names in the merge.
        plan: the plan of the merge.
        parents: the open parents.
    """
    return digest_of_groups([{entry.name: tensors[entry.name] for entry in plan.entries}], plan, parents)


def digest_of_groups(groups: Iterable[Mapping[str, Tensor]], plan: Plan, parents: ParentSet) -> str:
    """Return the same digest of tensors that come a few at a time, by their names in the merge."""
    layout, dtypes = parents.architecture.layout, _dtypes(plan)

    def pieces(name: str, tensor: Tensor) -> _Pieces:
        return lambda: layout.disassemble(name, tensor.detach().to("cpu", dtypes[name]).contiguous())

    return _digest(map(pieces, group, group.values()) for group in groups)


def digest_of_files(stored: Mapping[str, StoredTensor], plan: Plan, parents: ParentSet) -> str:
    """Return the digest of an exported merge from its files' tensors. Raises MergingError if one is broken."""
    layout = parents.architecture.layout
    dtypes = _dtypes(plan)
    whole = {piece: name for name, pieces in layout.pieces(stored).items() for piece in pieces}

    def piece(tensor: StoredTensor) -> _Pieces:
        dtype = dtypes.get(whole[tensor.name], tensor.dtype)
        return lambda: {tensor.name: tensor.view().to(dtype)}

    return _digest([map(piece, stored.values())])


def _dtypes(plan: Plan) -> dict[str, torch.dtype]:
    """Return the dtype in which both the files and the model can hold each tensor."""
    model = plan.model_dtype
    files = {entry.name: entry.dtype for entry in plan.entries}
    return {name: dtype if torch.promote_types(dtype, model) == model else model for name, dtype in files.items()}


def _digest(groups: Iterable[Iterable[_Pieces]]) -> str:
    # Hashing releases the GIL. blake2b is fast on every processor, sha256 only on some.
    with ThreadPoolExecutor(torch.get_num_threads(), "digest") as pool:
        found = [entry for group in groups for entries in pool.map(_hashed, group) for entry in entries]
    return blake2b(json.dumps(sorted(found)).encode(), digest_size=32).hexdigest()


def _hashed(pieces: _Pieces) -> list[_Entry]:
    with torch.inference_mode():
        return [(name, list(each.shape), str(each.dtype), _of_bytes(each)) for name, each in pieces().items()]


def _of_bytes(tensor: Tensor) -> str:
    memory = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return blake2b(memory, digest_size=32).hexdigest()
