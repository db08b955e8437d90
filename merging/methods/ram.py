"""Reinforced Agent Merging: changes that parents share are averaged, those of only one are kept (arXiv:2601.13572).

ramplus_tl amplifies a parent's own changes, the more so, the more of its changes are shared ("tensor-local": counted
for each tensor separately). An element belongs to one of the paper's three sets: unchanged, unique or shared, as no
parent, one parent or more change it (figure 4 (b)); the sets are merged as figure 4 (c) shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.magnitudes import read_size
from merging.methods.operands import Block, Operands
from merging.methods.registry import method


@method("ram", source="arXiv:2601.13572", base="required")
def ram(block: Block, epsilon: Shared[float] = Default(1e-5, low=0.0)) -> Tensor:
    """Return the base plus, for each element, the mean of the changes larger than `epsilon`."""
    if not block.inputs:
        return block.base
    changes, counts = _changes(block, epsilon)
    return block.base + changes.div_(counts).sum(dim=0)  # shared: averaged; unique: kept, divided by 1


def amplification(
    operands: Operands,
    r: Shared[float] = Default(0.1),
    alpha: Shared[float] = Default(0.2, low=0.0),
    epsilon: Shared[float] = Default(1e-5, low=0.0),
) -> tuple[Tensor, float]:
    """Return the factors of own changes, 1 + r · min(alpha, shared / own), (parents, 1) float32; and epsilon.

    A parent whose changes are all shared counts as having `epsilon` of its own.
    """
    every = range(operands.count)
    shared, own = operands.last("shared_and_own", every, epsilon, lambda: _shared_and_own(operands, epsilon))
    ratios = shared / own.clamp(min=epsilon)  # ρ, of shared to unique elements
    return (1 + r * ratios.clamp(min=0, max=alpha)).unsqueeze(-1), epsilon  # λ = 1 + r · clip(ρ, 0, α)


@method("ramplus_tl", source="arXiv:2601.13572", base="required", prepare=amplification)
def ramplus_tl(block: Block, amplification: tuple[Tensor, float]) -> Tensor:
    """Return the base plus the mean of shared changes and the amplified changes of single parents."""
    if not block.inputs:
        return block.base
    factors, epsilon = amplification
    changes, counts = _changes(block, epsilon)
    own = changes * factors.to(changes.device)
    # Unique: rescaled by λ; shared: averaged.
    return block.base + torch.where(counts == 1, own, changes.div_(counts)).sum(dim=0)


def _shared_and_own(operands: Operands, epsilon: float) -> Tensor:
    """Return how many of each parent's changes are shared, and how many are its own, (2, parents), on the CPU."""
    found = torch.zeros(2, operands.count, dtype=torch.int64, device=operands.device)
    for block in operands.blocks(read_size(operands)) if operands.count else ():
        changes, counts = _changes(block, epsilon)
        changed = changes != 0
        found += torch.stack([(changed & which).sum(dim=1) for which in (counts > 1, counts == 1)])
    return found.cpu()


def _changes(block: Block, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the changes larger than epsilon, else 0, (parents, elements), and how many an element has, at least 1."""
    changes = torch.stack(block.inputs).sub_(block.base)
    large = changes.abs() > epsilon
    return changes.mul_(large), large.sum(dim=0).clamp_(min=1)
