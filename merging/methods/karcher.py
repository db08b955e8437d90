"""Karcher mean: the point on a sphere that is nearest to the parents' directions (arXiv:2603.04972).

The paper's spherical proxy (section 3.4) of the Karcher mean's fixed-point iteration (section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.operands import Block
from merging.methods.registry import method


@method("karcher", source="arXiv:2603.04972", whole=True)
def karcher(
    block: Block, max_iter: Shared[int] = Default(10, low=0), tol: Shared[float] = Default(1e-5, low=0.0)
) -> Tensor:
    """Return the mean direction of the parents, with their mean length; all parents count alike.

    Lengths are taken in float32 or wider; everything else rounds to the dtype of the merge after every step. Parents of
    at most the length `tol` have no direction; if none has one, the merge is zero.
    """
    parents = block.inputs
    if len(parents) == 1:
        return parents[0]
    lengths = [_length(parent) for parent in parents]
    # Section 3.4: normalized to the unit sphere.
    directions = [_scaled(p, length) for p, length in zip(parents, lengths, strict=True) if float(length) > tol]
    if not directions:
        return reduce(torch.add, [parent * 0 for parent in parents])  # a NaN stays NaN
    part = 1.0 / len(parents)
    # Summed one by one, as mergekit sums the parts of the parents that have a direction.
    parts = [part / sum([part] * len(directions))] * len(directions)
    mean = _mean_direction(directions, parts, int(max_iter), tol)  # a gradient interpolates to a float
    return reduce(torch.add, [part * length for length in lengths]) * mean  # section 3.4: the sources' mean norm


def _mean_direction(directions: Sequence[Tensor], parts: Sequence[float], steps: int, tol: float) -> Tensor:
    """Walk from the mean of unit tensors to their Karcher mean, each step along the mean of the arcs to them."""
    mean = torch.zeros_like(directions[0])
    for part, direction in zip(parts, directions, strict=True):
        mean.add_(part * direction)
    length = _length(mean)
    mean = directions[0] if float(length) < tol else _scaled(mean, length)
    for _ in range(steps):
        tangent = _mean_arc(mean, directions, parts, tol)
        angle = _length(tangent)
        if float(angle) < tol:
            break
        # Eq. (5), θ ← Exp_θ(η Σ α_i Log_θ(θ_i)) with η = 1: Exp_p(v) = cos ‖v‖ · p + sin ‖v‖ · v / ‖v‖.
        mean = torch.cos(angle) * mean + torch.sin(angle) * (tangent / angle)
        if float(length := _length(mean)) > tol:
            mean = _scaled(mean, length)
    return mean


def _mean_arc(mean: Tensor, directions: Sequence[Tensor], parts: Sequence[float], tol: float) -> Tensor:
    tangent = torch.zeros_like(mean)
    for part, direction in zip(parts, directions, strict=True):
        cosine = torch.dot(mean.flatten(), direction.flatten()).clamp(-1.0, 1.0)
        theta = torch.arccos(cosine)
        if float(theta) < tol:
            continue
        # Eq. (5), Σ α_i Log_θ(θ_i): Log_p(q) = Ω / sin Ω · (q - cos Ω · p), where Ω = arccos⟨p, q⟩.
        tangent.add_((direction - cosine * mean).mul_(part * (theta / torch.sin(theta))))
    return tangent


def _length(tensor: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(tensor.to(torch.promote_types(tensor.dtype, torch.float32)))
    return length


def _scaled(tensor: Tensor, length: Tensor) -> Tensor:
    return (tensor / length).to(tensor.dtype)
