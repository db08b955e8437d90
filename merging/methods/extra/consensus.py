"""Consensus task arithmetic: only what enough parents need of the merged task vector is added (arXiv:2405.07813).

Elementwise, and so the same for matrices, vectors and embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.extra.task_vector_sums import taking_part, wide
from merging.methods.operands import Block
from merging.methods.registry import method


@method("consensus_ta", source="arXiv:2405.07813", base="required", keeps_base=True, in_mergekit=False)
def consensus_ta(
    block: Block,
    weight: PerParent[float] = Default(1.0),
    lambda_: Shared[float] = Default(1.0),
    tall_lambda: PerParent[float] = Default(0.4, low=0.0),  # the paper's are 0.2 to 0.6, by validation
    k: Shared[int] = Default(2, low=0),
) -> Tensor:
    """Return base + lambda · τ where at least `k` parents' TALL masks agree, else the base; τ = Σ weight · τ_i.

    A parent's TALL mask holds the elements with |τ_i| > tall_lambda · |τ - τ_i|, where τ_i is weighted already. With
    k = 0 this is task arithmetic; k = 2 removes what only one parent needs ("selfish") and what none needs
    ("catastrophic").
    """
    base = block.base.to(wide(block.base.dtype))
    vectors = [(i, block.inputs[i].to(base.dtype, copy=True).sub_(base).mul_(weight[i])) for i in taking_part(weight)]
    total = torch.zeros_like(base)  # τ_MTL = Σ τ_t
    for _index, vector in vectors:
        total.add_(vector)
    votes = torch.zeros(len(block), dtype=torch.int16, device=base.device)
    for index, vector in vectors:
        # m_t = 1{|τ_t| ≥ |τ_MTL - τ_t| · λ_t}; as in the authors' code, equals do not count.
        votes += vector.abs() > (total - vector).abs_().mul_(tall_lambda[index])
    # m_consensus = 1{Σ m_t ≥ k}, and θ_0 + α · (m_consensus ⊙ τ_MTL).
    # Multiplied, so that a NaN in a parent shows even where no mask holds it.
    change = total.mul_(votes >= int(k)).mul_(lambda_)  # a gradient interpolates to a float
    return change.add_(base).to(block.base.dtype)
