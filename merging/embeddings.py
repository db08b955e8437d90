"""The embeddings of parents with different vocabularies, rearranged to one vocabulary.

Guarantees: the bits that mergekit 0.1.5 gives these rows; computed on the CPU, whatever the device, and once for a
parent set. Methods see what comes out as a parent's tensor like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from hashlib import sha256

import torch
from torch import Tensor

from merging.parents import Derived, ParentSet
from merging.vocabulary import Alignment, Vocabulary, align


def aligned_names(
    parents: ParentSet,
    vocabulary: Vocabulary,
    tensor: str,
    models: Sequence[str],
    base: str | None,
    dtype: str | None,
) -> dict[str, str]:
    """Return, by model, the name under which a parent set has a model's tensor with the rows of a vocabulary.

    Args:
        parents: where the tensor is, and where the rearranged one will be.
        vocabulary: the merge's.
        tensor: a tensor that has a row a token.
        models: those that are merged with one another.
        base: the base model, if there is one.
        dtype: the dtype of the merge, or None for the widest of the models'.

    Raises:
        MergingError: the recipe wants a token from a model that does not have it.
    """
    alignment = parents.statistics.once(
        ("alignment", vocabulary.name, tuple(models), base), lambda: align(vocabulary, models, base)
    )
    wide = getattr(torch, dtype) if dtype else reduce(torch.promote_types, (parents.dtype(m, tensor) for m in models))
    particular = sha256(repr((vocabulary.name, tuple(models), base, wide)).encode()).hexdigest()[:8]
    names = {}
    for model in models:
        rows, *rest = parents.shape(model, tensor)
        names[model] = tensor
        if not alignment.keeps(model, rows):
            names[model] = f"{tensor}@{vocabulary.name}-{particular}"
            read = partial(rearranged, alignment, model, lambda of: parents.tensor(of, tensor).cpu(), wide)
            parents.derive(model, names[model], Derived((alignment.rows, *rest), wide, read))
    return names


def rearranged(alignment: Alignment, parent: str, table: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """Return a parent's embedding (or output head, or its bias) in the vocabulary of the merge.

    Args:
        alignment: which row comes from where.
        parent: whose.
        table: gives a parent's tensor, (its rows, *rest), on the CPU.
        dtype: the dtype of the merge, to which rows are rounded before anything else.

    Returns:
        (alignment.rows, *rest) in `dtype`.
    """

    def rows(of: str, index: Tensor) -> Tensor:
        return table(of)[index].to(dtype)

    own = alignment.own[parent]
    out = torch.zeros((alignment.rows, *table(parent).shape[1:]), dtype=dtype)
    for donor, row in alignment.copied.items():
        (filled,) = (own.lt(0) & row.ge(0)).nonzero(as_tuple=True)
        out[filled] = rows(donor, row[filled])
    averaged = alignment.averaged[own[alignment.averaged] < 0]
    if len(averaged):
        out[averaged] = _means(alignment, averaged, out[averaged], rows)
    (kept,) = own.ge(0).nonzero(as_tuple=True)
    out[kept] = rows(parent, own[kept])
    _pad(out, alignment.ids)
    return out


def _means(alignment: Alignment, averaged: Tensor, total: Tensor, rows: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Return the mean of the parents that have a row, summed one after another in the dtype of `total` (zeros)."""
    count = torch.zeros(len(averaged), dtype=torch.int64)
    for parent, own in alignment.own.items():
        (has,) = own[averaged].ge(0).nonzero(as_tuple=True)
        total[has] += rows(parent, own[averaged[has]])
        count[has] += 1
    for parents in sorted(set(count.tolist())):  # a number and a tensor as divisor may round differently
        total[count == parents] /= parents
    return total


def _pad(out: Tensor, ids: Tensor) -> None:
    """Fill the rows that belong to no token with the mean of those that do."""
    if len(ids) == len(out):
        return
    is_token = torch.zeros(len(out), dtype=torch.bool)
    is_token[ids] = True
    tokens = out[: len(ids)] if bool(is_token[: len(ids)].all()) else out[ids]
    out[~is_token] = tokens.mean(dim=0)
