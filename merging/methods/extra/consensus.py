"""Consensus task arithmetic: only what enough parents need of the merged task vector is added (arXiv:2405.07813).

Elementwise, and so the same for matrices, vectors and embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.methods.extra.task_vector_sums import SCALE, WEIGHT, taking_part, wide
from merging.methods.operands import Block
from merging.methods.parameters import Parameter, ParameterValues, Scope
from merging.methods.registry import method


@method(
    "consensus_ta",
    source="arXiv:2405.07813",
    parameters=(
        WEIGHT,
        SCALE,
        # The paper chooses each parent's from 0.2 to 0.6 by its validation score.
        Parameter("tall_lambda", float, Scope.NON_BASE, default=0.4, low=0.0),
        Parameter("k", int, Scope.SHARED, default=2, low=0),
    ),
    base="required",
    keeps_base=True,
    in_mergekit=False,
)
def consensus_ta(block: Block, parameters: ParameterValues, _: None) -> Tensor:
    """Return base + lambda · τ where at least `k` parents' TALL masks agree, else the base; τ = Σ weight · τ_i.

    A parent's TALL mask holds the elements in which |τ_i| > tall_lambda · |τ - τ_i|, its task vector weighed already.
    With k = 0 this is task arithmetic; k = 2 takes out what a single parent needs ("selfish") and what none does
    ("catastrophic").
    """
    base = block.base.to(wide(block.base.dtype))
    weights, thresholds = parameters.each("weight"), parameters.each("tall_lambda")
    vectors = [(i, block.inputs[i].to(base.dtype, copy=True).sub_(base).mul_(weights[i])) for i in taking_part(weights)]
    total = torch.zeros_like(base)
    for _index, vector in vectors:
        total.add_(vector)
    votes = torch.zeros(len(block), dtype=torch.int16, device=base.device)
    for index, vector in vectors:
        votes += vector.abs() > (total - vector).abs_().mul_(thresholds[index])
    # Multiplied, so that a NaN in a parent shows even where no mask holds it.
    change = total.mul_(votes >= int(parameters.number("k"))).mul_(parameters.number("lambda"))
    return change.add_(base).to(block.base.dtype)
