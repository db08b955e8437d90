"""The protocol of kernels: ways to compute a method over a whole tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from merging.arithmetic.bits import Finite, all_finite
from merging.methods import Method
from merging.methods.declarations import ParameterValues
from merging.methods.operands import Block, Operands
from merging.methods.sparsification import Sparsification


@dataclass(frozen=True, slots=True)
class Target:
    """Where a merge goes.

    Attributes:
        out: (elements,), contiguous, on any device.
        roundings: the dtypes that the merge is rounded to, in turn.
    """

    out: Tensor
    roundings: tuple[torch.dtype, ...]

    def part(self, block: Block) -> Tensor:
        """Return the memory of a block."""
        return self.out[block.start : block.start + len(block)]

    def write(self, block: Block, merged: Tensor) -> Finite:
        """Round the merge of a block and write it; return whether it is finite."""
        for dtype in self.roundings:
            merged = merged.to(dtype)
        self.part(block).copy_(merged)
        return all_finite(merged)


class Kernels(Protocol):
    """A way to compute methods. The bits of a merge do not depend on which is chosen."""

    @property
    def compiles(self) -> bool:
        """Whether a pass is compiled when it is first needed."""

    def covers(self, method: Method, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether it computes this method, in this dtype, on this device."""

    def merge(self, method: Method, operands: Operands, parameters: ParameterValues, target: Target) -> Finite:
        """Merge one tensor into the target; return whether it is finite. After False, the target is undefined."""

    def completed(
        self, operands: Operands, index: int, sparsification: Sparsification, rescale: bool
    ) -> Sparsification:
        """Complete the sparsification of a task vector, except for what the pass finds itself (Operands.completed)."""
