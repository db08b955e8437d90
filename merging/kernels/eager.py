"""Eager kernels: the methods' own functions on one block after another, for any method, dtype and device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from merging.arithmetic.bits import Finite
from merging.kernels.interface import Kernels, Target
from merging.methods import Method
from merging.methods.declarations import ParameterValues
from merging.methods.operands import Block, Operands
from merging.methods.sparsification import Sparsification, l1_norm, located, rescaled

# Blocks are so small that what a method holds at once stays in the processor's last-level cache, and so large that a
# pass over one costs more than its call. A GPU is faster with whole tensors.
_BLOCK = {"cpu": 1 << 19}
_WHOLE = 1 << 26


class EagerKernels:
    """Plain torch, without a compiler."""

    compiles = False

    def covers(self, method: Method, dtype: torch.dtype, device: torch.device) -> bool:  # noqa: ARG002 - covers all
        """Return True."""
        return True

    def merge(self, method: Method, operands: Operands, parameters: ParameterValues, target: Target) -> Finite:
        """Merge one tensor by the method's own functions."""
        prepared = method.prepare(operands, parameters)
        size = min(_BLOCK.get(operands.device.type, _WHOLE), operands.at_once)

        def write(block: Block) -> Finite:
            return target.write(block, method.combine(block, prepared).view(-1))

        return write_blocks([operands.whole()] if method.whole else operands.blocks(size), write)

    def completed(
        self, operands: Operands, index: int, sparsification: Sparsification, rescale: bool
    ) -> Sparsification:
        """Search the runs that edges lie in; sum up what is kept in a separate pass."""
        found = located(operands, index, sparsification)
        return rescaled(operands, index, found, l1_norm(operands, index, found)) if rescale else found


EAGER: Kernels = EagerKernels()


def write_blocks(blocks: Iterable[Block], write: Callable[[Block], Finite]) -> Finite:
    """Write one block after another; return whether all are finite. Stop at the first that is known not to be."""
    finite: Finite = True
    for block in blocks:
        block.workspace.reuse()
        found = write(block)
        if found is False:
            return False
        finite = found if finite is True else finite & found
    return finite
