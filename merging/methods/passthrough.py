"""Passthrough: one parent as it is, or scaled (mergekit's documentation)."""

from __future__ import annotations

from torch import Tensor

from merging.methods.operands import Block
from merging.methods.parameters import Parameter, ParameterValues, Scope
from merging.methods.registry import method


@method(
    "passthrough",
    source="mergekit: docs/merge_methods.md",
    parameters=(Parameter("scale", float, Scope.INPUT, optional=True),),
    inputs=(1, 1),
)
def passthrough(block: Block, parameters: ParameterValues, _: None) -> Tensor:
    """Return the parent, times `scale` if one is given."""
    (parent,), (scale,) = block.inputs, parameters.per_input["scale"]
    return parent if scale is None else parent * float(scale)
