"""The embeddings of parents with different vocabularies, rearranged to one vocabulary.

Guarantees: the rows have the bits that mergekit 0.1.5 gives them. They are computed on the CPU when they are read,
whatever the device. For methods, the result is a parent's tensor like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

import torch
from torch import Tensor

from merging.checkpoints.weights import Digest, StoredTensor
from merging.parents import ParentSet
from merging.tokenization.vocabulary import Alignment, Vocabulary, align

# Version of the rules that fill rows; raise it when the bits change.
_VERSION = 1


@dataclass(frozen=True)
class RearrangedTensor(StoredTensor):
    """A parent's tensor with a row per token, rearranged to another vocabulary.

    `file` is that of the parent's own tensor; `name` tells vocabularies, models and dtypes apart.

    Attributes:
        parent: the parent.
        tables: the tensor of each model that is merged with it, the sources of new rows.
        alignment: the source of each row.
    """

    parent: str
    tables: tuple[tuple[str, StoredTensor], ...]
    alignment: Alignment = field(repr=False, compare=False)

    def read(self) -> Tensor:
        """Read the models' tables and rearrange them."""
        tables = dict(self.tables)
        return rearranged(self.alignment, self.parent, cache(lambda of: tables[of].view()), self.dtype)

    def made_of(self, digest: Digest) -> object:
        """Return the identity of the models' tables, the parent's place among them, and the source of each row."""
        names = [name for name, _ in self.tables]
        tables = [table.made_of(digest) for _, table in self.tables]
        return ["rearranged", _VERSION, str(self.dtype), names.index(self.parent), tables, self.alignment.digest(names)]


def aligned_names(
    parents: ParentSet,
    vocabulary: Vocabulary,
    tensor: str,
    models: Sequence[str],
    base: str | None,
    dtype: torch.dtype,
) -> dict[str, str]:
    """Return, by model, the name of its tensor in the parent set with the rows of a vocabulary.

    Args:
        parents: where the tensor is, and where the rearranged one will be.
        vocabulary: the vocabulary of the merge.
        tensor: a tensor that has a row per token.
        models: the models that are merged together.
        base: the base model, if there is one.
        dtype: the dtype of the merge.

    Raises:
        MergingError: the recipe wants a token from a model that does not have it.
    """
    alignment = parents.statistics.once(
        ("alignment", vocabulary.name, tuple(models), base), lambda: align(vocabulary, models, base)
    )
    particular = sha256(repr((vocabulary.name, tuple(models), base, dtype)).encode()).hexdigest()[:8]
    tables = {model: parents.stored(model, tensor) for model in models}
    names = dict.fromkeys(models, tensor)
    for model, table in tables.items():
        rows, *rest = table.shape
        if not alignment.keeps(model, rows):
            names[model] = f"{tensor}@{vocabulary.name}-{particular}"
            shape = (alignment.rows, *rest)
            made_of = tuple(tables.items())
            parents.derive(model, RearrangedTensor(names[model], shape, dtype, table.file, model, made_of, alignment))
    return names


def rearranged(alignment: Alignment, parent: str, table: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """Return a parent's embedding (or output head, or its bias) in the vocabulary of the merge.

    Args:
        alignment: the source of each row.
        parent: the parent.
        table: returns a parent's tensor, (its rows, *rest), on the CPU.
        dtype: the dtype of the merge, to which rows are rounded first.

    Returns:
        (alignment.rows, *rest) in `dtype`.
    """

    def rows(of: str, index: Tensor) -> Tensor:
        return table(of)[index].to(dtype)

    own = alignment.own[parent]
    out = torch.zeros((alignment.rows, *table(parent).shape[1:]), dtype=dtype)
    for origin, row in alignment.copied.items():
        (filled,) = (own.lt(0) & row.ge(0)).nonzero(as_tuple=True)
        out[filled] = rows(origin, row[filled])
    averaged = alignment.averaged[own[alignment.averaged] < 0]
    if len(averaged):
        out[averaged] = _means(alignment, averaged, out[averaged], rows)
    (kept,) = own.ge(0).nonzero(as_tuple=True)
    out[kept] = rows(parent, own[kept])
    _pad(out, alignment.ids)
    return out


def _means(alignment: Alignment, averaged: Tensor, total: Tensor, rows: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Return the mean over the parents that have a row, summed one by one in the dtype of `total` (zeros)."""
    count = torch.zeros(len(averaged), dtype=torch.int64)
    for parent, own in alignment.own.items():
        (has,) = own[averaged].ge(0).nonzero(as_tuple=True)
        total[has] += rows(parent, own[averaged[has]])
        count[has] += 1
    for parents in sorted(set(count.tolist())):  # dividing by a number and by a tensor may round differently
        total[count == parents] /= parents
    return total


def _pad(out: Tensor, ids: Tensor) -> None:
    """Fill rows without a token with the mean of the rows with one."""
    if len(ids) == len(out):
        return
    is_token = torch.zeros(len(out), dtype=torch.bool)
    is_token[ids] = True
    tokens = out[: len(ids)] if bool(is_token[: len(ids)].all()) else out[ids]
    out[~is_token] = tokens.mean(dim=0)
