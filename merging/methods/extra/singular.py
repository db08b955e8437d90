"""Merging in the singular vectors of the task vectors: TSV-M (arXiv:2412.00081), Iso-C and Iso-CTS (arXiv:2502.04959).

They apply to matrices; everything else (vectors, embeddings, filters of convolutions) gets the average of the task
vectors, as in the papers. A tensor of three axes is a stack of matrices. Guarantees: the singular value decompositions,
which take nearly all of the time, depend only on the parents (and, for Iso, on their weights); singular vectors whose
singular value is zero up to rounding, which are arbitrary, take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.extra.task_vector_sums import (
    TaskVectorSum,
    made_of_task_vectors,
    mean_task_vector,
    plus_base,
    taking_part,
)
from merging.methods.operands import Block, Operands
from merging.methods.registry import method
from merging.statistics import forms
from merging.statistics.forms import Form

Factors: TypeAlias = tuple[Tensor, Tensor, Tensor]  # (..., m, r), (..., r), (..., r, n)

_PARTS, _MERGED = forms.optional_tensor(version=1), forms.optional_tensor(version=1)
_FACTORS: Form[Factors] = forms.tensors(version=1)


# --- TSV-M ----------------------------------------------------------------------------------------------------------


def decorrelate(
    operands: Operands,
    weight: PerParent[float] = Default(1.0),
    lambda_: Shared[float] = Default(1.0),
    rank_fraction: Shared[float | None] = Default(low=0.0, high=1.0),
) -> TaskVectorSum:
    """Return the task vectors in low rank and decorrelated; they depend only on the parents and `rank_fraction`."""
    inputs = taking_part(weight)
    if not operands.is_matrix or len(inputs) == 0:
        return mean_task_vector(weight, lambda_)

    def parts(vectors: Tensor) -> Tensor:
        full = min(operands.shape[-2:])
        if rank_fraction is not None:
            factors = [_kept(operands, *pair) for pair in zip(inputs, vectors, strict=True)]
            return low_rank(factors, int(rank_fraction * full))
        return low_rank([decompose(vector) for vector in vectors], full // len(inputs)) if len(inputs) > 1 else vectors

    found = made_of_task_vectors(operands, "tsv_m", inputs, rank_fraction, parts, _PARTS)
    if found is None:
        return mean_task_vector(weight, lambda_)
    return TaskVectorSum(tuple(lambda_ * weight[index] for index in inputs), found.flatten(1))


@method(
    "tsv_m",
    source="arXiv:2412.00081",
    base="required",
    prepare=decorrelate,
    keeps_base=True,
    in_mergekit=False,
    keeps="matrix per input",
)
def tsv_m(block: Block, change: TaskVectorSum) -> Tensor:
    """Return base + lambda · Σ weight · U⊥ S V⊥ᵀ: each parent's leading singular vectors, decorrelated.

    Each parent has the `rank_fraction` of the rank, by default an equal part of it. A candidate with only new weights
    and lambda costs no decomposition; a `rank_fraction` that is given keeps all factors of the parents as well.
    """
    return plus_base(block, change)


def _kept(operands: Operands, index: int, vector: Tensor) -> Factors:
    u, s, vh = operands.once("svd", [index], lambda: decompose(vector), kept=_FACTORS)
    return u.to(vector.device), s.to(vector.device), vh.to(vector.device)  # they may be kept on the host


def low_rank(factors: Sequence[Factors], rank: int) -> Tensor:
    """Return each matrix with at most this rank (at least 1), its singular vectors orthogonal to those of the others.

    On the left and on the right, the singular vectors of all matrices, side by side, are replaced by the nearest
    orthonormal ones (the paper's Procrustes problem). Shape (matrices, ..., m, n).
    """
    rank = max(1, rank)
    # min ‖U⊥ - Û‖ over orthogonal U⊥, where Û = [Û_1 ... Û_T]: U⊥ = P Qᵀ by the SVD Û = P D Qᵀ; and so V⊥.
    left = nearest_orthogonal(torch.cat([u[..., :rank] for u, _, _ in factors], dim=-1))
    right = nearest_orthogonal(torch.cat([vh[..., :rank, :] for _, _, vh in factors], dim=-2))
    sides = zip(left.chunk(len(factors), dim=-1), right.chunk(len(factors), dim=-2), factors, strict=True)
    return torch.stack([(u * s[..., None, :rank]) @ vh for u, vh, (_, s, _) in sides])  # M̂ = U⊥ Σ̂ V⊥ᵀ, by parent


# --- Iso ------------------------------------------------------------------------------------------------------------


def flatten_common(
    operands: Operands, weight: PerParent[float] = Default(1.0), lambda_: Shared[float] = Default(1.0)
) -> TaskVectorSum:
    """Return the sum of the weighted task vectors with equal singular values; it needs only parents and weights."""
    return _isotropic(operands, weight, lambda_, "iso_c", (), lambda vectors: isotropic(*decompose(vectors.sum(dim=0))))


@method(
    "iso_c",
    source="arXiv:2502.04959",
    base="required",
    prepare=flatten_common,
    keeps_base=True,
    in_mergekit=False,
    keeps="matrix",
)
def iso_c(block: Block, change: TaskVectorSum) -> Tensor:
    """Return base + lambda · mean(σ) · U Vᵀ, where U diag(σ) Vᵀ is the sum of the weighted task vectors."""
    return plus_base(block, change)  # eq. (9)


def flatten_common_and_specific(
    operands: Operands,
    weight: PerParent[float] = Default(1.0),
    lambda_: Shared[float] = Default(1.0),
    # The authors' configuration; the rest of the rank is divided among the parents.
    common_fraction: Shared[float] = Default(0.8, low=0.0, high=1.0),
) -> TaskVectorSum:
    """Return the isotropic task vector of the common and each parent's own subspace; needs only parents and weights."""
    return _isotropic(
        operands,
        weight,
        lambda_,
        "iso_cts",
        (common_fraction,),
        lambda vectors: common_and_specific(vectors, common_fraction),
    )


@method(
    "iso_cts",
    source="arXiv:2502.04959",
    base="required",
    prepare=flatten_common_and_specific,
    keeps_base=True,
    in_mergekit=False,
    keeps="matrix",
)
def iso_cts(block: Block, change: TaskVectorSum) -> Tensor:
    """Return the merge of Iso-C, but each parent's own directions outside the common ones replace the sum's least."""
    return plus_base(block, change)  # eq. (14)


def common_and_specific(vectors: Tensor, fraction: float) -> Tensor:
    """Return the isotropic merge of task vectors (parents, ..., m, n) by the paper's algorithm 2; shape (..., m, n)."""
    count, rank = len(vectors), min(vectors.shape[-2:])
    # Each parent gets equally many directions, and the common ones are the rest.
    own = min(round((rank - int(rank * fraction)) / count), rank // count)
    common = rank - own * count
    u, s, vh = decompose(vectors.sum(dim=0))
    u, s, vh = u[..., :common], s[..., :common], vh[..., :common, :]
    factors = [decompose(vector - u @ (u.mT @ vector)) for vector in vectors]  # eq. (10)
    left = torch.cat([*(each[0][..., :own] for each in factors), u], dim=-1)
    right = torch.cat([*(each[2][..., :own, :] for each in factors), vh], dim=-2)
    values = torch.cat([*(each[1][..., :own] for each in factors), s], dim=-1)
    return isotropic(nearest_orthogonal(left), values, nearest_orthogonal(right))


def isotropic(u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Return u @ vh times the mean of the singular values that are not zero."""
    mean = s.sum(dim=-1) / s.count_nonzero(dim=-1).clamp(min=1)  # eq. (7); of Iso-CTS eq. (13)
    return (u @ vh).mul_(mean[..., None, None])  # eq. (8); of Iso-CTS eq. (12)


def _isotropic(
    operands: Operands,
    weights: tuple[float, ...],
    scale: float,
    name: str,
    others: tuple[float, ...],
    merge: Callable[[Tensor], Tensor],
) -> TaskVectorSum:
    inputs = taking_part(weights)
    if not operands.is_matrix or len(inputs) == 0:
        return mean_task_vector(weights, scale)

    def weighed(vectors: Tensor) -> Tensor:
        for vector, index in zip(vectors, inputs, strict=True):
            vector.mul_(weights[index])
        return merge(vectors)

    found = made_of_task_vectors(operands, name, inputs, (weights, *others), weighed, _MERGED)
    if found is None:
        return mean_task_vector(weights, scale)
    return TaskVectorSum((scale,), found.flatten().unsqueeze(0))


# --- matrices -------------------------------------------------------------------------------------------------------


def decompose(matrix: Tensor) -> Factors:
    """Return u, s, vh of a matrix (or of a stack), with zeros for singular values that are zero up to rounding."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s * _is_not_zero(s, matrix.shape)
    return u * (s != 0)[..., None, :], s, vh * (s != 0)[..., :, None]


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """Return the orthogonal factor of the polar decomposition (of the matrix's own rank, which makes it unique)."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    factor: Tensor = (u * _is_not_zero(s, matrix.shape)[..., None, :]) @ vh  # Iso, eq. (11)
    return factor


def _is_not_zero(s: Tensor, shape: torch.Size) -> Tensor:
    return s > s.amax(dim=-1, keepdim=True) * max(shape[-2:]) * torch.finfo(s.dtype).eps
