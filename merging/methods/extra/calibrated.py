"""Averages weighted by a small calibration text: Fisher-weighted (arXiv:2111.09832) and RegMean (arXiv:2212.09849).

Guarantees: computed in float32 or wider (RegMean's equations in float64) and rounded to the dtype of the merge once. A
base model, if there is one, gives the architecture and takes no part. A parent whose weight is zero counts as absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.extra.task_vector_sums import taking_part, wide
from merging.methods.operands import Block, Operands
from merging.methods.registry import Undefined, method
from merging.statistics import forms

# With an alpha of 1, the rounding errors of the Gram matrices, which are float32, would decide the solution in
# directions that no text has.
_LARGEST_ALPHA = 1 - 1e-6
# Not written: quickly made from what is kept of the parents.
_SOLVED = forms.tensor(version=1, is_written=False)


# --- Fisher ---------------------------------------------------------------------------------------------------------


Fishers: TypeAlias = tuple[tuple[float, ...], tuple[Tensor | None, ...]]  # weights, and flat diagonals


def fishers(
    operands: Operands,
    weight: PerParent[float] = Default(1.0, low=0.0),
    calibration: PerParent[str] = Default(),  # noqa: ARG001 - the text that is observed
) -> Fishers:
    """Return the weight and the diagonal Fisher information of each input; no information where the weight is zero."""
    _check(weight)
    found = [operands.observed(index) if each else None for index, each in enumerate(weight)]
    return weight, tuple(None if fisher is None else fisher.reshape(-1) for fisher in found)


@method(
    "fisher",
    source="arXiv:2111.09832",
    base="optional",
    prepare=fishers,
    in_mergekit=False,
    observes="fisher",
)
def fisher(block: Block, fishers: Fishers) -> Tensor:
    """Return Σ weight · F · parent / Σ weight · F, elementwise; where no parent has any F, the weighted average.

    F is the diagonal of a parent's Fisher information on its calibration text, per token; the authors' code also
    divides it by its norm over the model, which a weight can do as well.
    """
    weights, diagonals = fishers
    average = averaged(block, weights)
    total, divisor = torch.zeros_like(average), torch.zeros_like(average)
    for parent, weight, whole in zip(block.inputs, weights, diagonals, strict=True):
        if whole is None:
            continue
        share = block.part(whole).to(average.dtype) * weight
        divisor.add_(share)
        total.addcmul_(share, parent.to(average.dtype) - average)
    # θ* = Σ λ_i F_i θ_i / Σ λ_i F_i, the paper's closed form for diagonal F, for the differences from the average.
    return average.add_(total.div_(divisor.masked_fill_(divisor == 0, 1))).to(block.inputs[0].dtype)


# --- RegMean --------------------------------------------------------------------------------------------------------


def regress(
    operands: Operands,
    weight: PerParent[float] = Default(1.0, low=0.0),
    calibration: PerParent[str] = Default(),
    alpha: Shared[float] = Default(0.9, low=0.0, high=1.0),
) -> Tensor | tuple[float, ...]:
    """Return RegMean's matrix, flat; for a tensor that is not a linear layer's weight, the weights to average it by."""
    _check(weight)
    inputs = taking_part(weight)
    grams = [operands.observed(index) for index in inputs]
    if any(gram is None for gram in grams):
        return weight

    def compute() -> Tensor:
        block = operands.whole()
        chosen = [block.inputs[index].to(torch.float64) for index in inputs]
        solved = least_squares(chosen, [gram for gram in grams if gram is not None], [weight[i] for i in inputs], alpha)
        return solved.to(wide(operands.dtype)).to(operands.dtype).reshape(-1)

    return operands.last("regmean", inputs, (weight, alpha, calibration), compute, _SOLVED)


@method("regmean", source="arXiv:2212.09849", base="optional", prepare=regress, in_mergekit=False, observes="gram")
def regmean(block: Block, merged: Tensor | tuple[float, ...]) -> Tensor:
    """Return the matrix whose outputs are nearest those of the parents, each on its own inputs; else the average.

    (Σ weight · G)⁻¹ Σ weight · G Wᵀ, transposed: G = alpha · XᵀX + (1 - alpha) · diag(XᵀX) per token, for a linear
    layer's inputs X on the parent's calibration text. Everything but the weights of torch.nn.Linear (biases, norms,
    embeddings, experts that are kept in one tensor) is averaged by weight.
    """
    if isinstance(merged, tuple):
        return averaged(block, merged).to(block.inputs[0].dtype)
    return block.part(merged)


def least_squares(
    matrices: Sequence[Tensor], grams: Sequence[Tensor], weights: Sequence[float], alpha: float
) -> Tensor:
    """Return RegMean's matrix (out, in), float64, given matrices (out, in), Gram matrices (in, in) and weights.

    Solved for the difference from the average, which is zero where the parents are equal or the inputs always zero.
    The Gram matrices may lie on the host.
    """
    alpha = min(alpha, _LARGEST_ALPHA)
    average = torch.stack([w * m for w, m in zip(weights, matrices, strict=True)]).sum(dim=0).div_(sum(weights))
    left = average.new_zeros(grams[0].shape)
    right = torch.zeros_like(average)
    for matrix, given, weight in zip(matrices, grams, weights, strict=True):
        gram = given.to(matrix.device, non_blocking=True)
        # RegMean's reduced non-diagonal items: α G + (1 - α) diag(G).
        shrunk = gram.to(torch.float64).mul(weight * alpha)
        shrunk.diagonal().add_(gram.diagonal(), alpha=weight * (1 - alpha))
        left.add_(shrunk)
        right.addmm_(matrix - average, shrunk)
    left.diagonal().add_(left.diagonal() == 0)  # an input that is always zero
    solved: Tensor = torch.linalg.solve(left, right.T)  # RegMean, eq. (2), for the differences from the average
    return average.add_(solved.T)


def averaged(block: Block, weights: Sequence[float]) -> Tensor:
    """Return the weighted average of the inputs whose weight is not zero, in the wide dtype, in memory of its own."""
    total = torch.zeros_like(block.inputs[0], dtype=wide(block.inputs[0].dtype))
    for index in taking_part(weights):
        total.add_(block.inputs[index].to(total.dtype), alpha=weights[index])
    return total.div_(sum(weights))


def _check(weights: Sequence[float]) -> None:
    if not any(weights):
        raise Undefined("the weights of all models are zero here; give one of them a weight above 0")
