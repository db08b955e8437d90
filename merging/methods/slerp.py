"""Slerp: along the great circle between two parents (https://en.wikipedia.org/wiki/Slerp)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from merging.methods.declarations import Shared
from merging.methods.linear import WeightedSum
from merging.methods.operands import Block, Operands
from merging.methods.registry import method

# Norms and dot products are summed in runs of this many elements, as mergekit 0.1.5 sums them: a float32
# sum in another order would now and then round a 16-bit result differently.
_RUN = 1 << 20

_NEARLY_PARALLEL = 0.9995
_SMALLEST_NORM = 1e-8


def angle_cosine(operands: Operands) -> Tensor:
    """Return the cosine between the base and the other parent as flat vectors, shape (1, 1)."""

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        return ((_wide(b.base), _wide(b.inputs[0])) for b in operands.blocks(_RUN))

    def norm(side: int) -> Tensor:
        parts = [torch.linalg.vector_norm(pair[side], dim=1, keepdim=True) for pair in pairs()]
        whole = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return torch.where(whole > _SMALLEST_NORM, whole, 1)

    norms = norm(0), norm(1)
    parts = [((base / norms[0]) * (other / norms[1])).sum(dim=1, keepdim=True) for base, other in pairs()]
    # On the host, where each candidate needs it: to ask a GPU for it each time would mean waiting for the GPU.
    return torch.stack(parts).sum(dim=0).clamp(-1, 1).cpu()


def _wide(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.to(torch.promote_types(values.dtype, torch.float32)).unsqueeze(0)


def coefficients(operands: Operands, t: Shared[float]) -> WeightedSum:
    """Return sin((1-t)·θ)/sin θ and sin(t·θ)/sin θ; 1-t and t where the parents are nearly parallel or opposite."""
    cosine = operands.once("angle_cosine", [0], lambda: angle_cosine(operands))
    end = torch.tensor([[t]], dtype=cosine.dtype, device=cosine.device)
    parallel = cosine.abs() > _NEARLY_PARALLEL
    theta = torch.acos(torch.where(parallel, 0, cosine))
    sine = torch.sin(theta)
    # The article's section "Geometric slerp": sin((1-t)Ω)/sin Ω · p_0 + sin(tΩ)/sin Ω · p_1.
    base = torch.where(parallel, 1 - end, torch.sin((1 - end) * theta) / sine)
    other = torch.where(parallel, end, torch.sin(end * theta) / sine)
    return WeightedSum((float(base), float(other)))


@method("slerp", source="https://en.wikipedia.org/wiki/Slerp", base="required", inputs=(2, 2), prepare=coefficients)
def slerp(block: Block, factors: WeightedSum) -> Tensor:
    """Return the point at `t` between the base (t = 0) and the other parent (t = 1)."""
    dtype = torch.promote_types(block.base.dtype, torch.float32)
    wide, other = (block.workspace.like(block.base, dtype) for _ in range(2))
    wide.copy_(block.base).mul_(factors.weights[0]).add_(other.copy_(block.inputs[0]).mul_(factors.weights[1]))
    return block.workspace.like(block.base).copy_(wide)
