"""Passthrough: one parent as it is, or scaled (mergekit's documentation)."""

from __future__ import annotations

from torch import Tensor

from merging.methods.declarations import PerInput
from merging.methods.operands import Block
from merging.methods.registry import method


@method("passthrough", source="mergekit: docs/merge_methods.md", inputs=(1, 1))
def passthrough(block: Block, scale: PerInput[float | None]) -> Tensor:
    """Return the parent, times `scale` if one is given."""
    (parent,), (factor,) = block.inputs, scale
    return parent if factor is None else parent * factor
