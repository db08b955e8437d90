"""Passes: the methods that kernels may compute in one pass over a tensor, and what each asks of them.

A method that has no pass here is merged eagerly. Two passes are enough: a weighted sum, and a mixture of task vectors.
"""

from __future__ import annotations

import enum
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from merging.arithmetic.bits import Finite
from merging.kernels.eager import write_blocks
from merging.kernels.interface import Target
from merging.methods import Method
from merging.methods.declarations import ParameterValues
from merging.methods.linear import WeightedSum, linear
from merging.methods.operands import Block, Operands
from merging.methods.registry import Combine
from merging.methods.slerp import slerp
from merging.methods.sparsification import NO_CEILING, Sparsification
from merging.methods.task_vectors import Mixture, mix

FORMATS = {torch.bfloat16: 16, torch.float16: 5, torch.float32: 32}
"""The dtypes that the passes know, each with its value of the constant FORMAT in native/dtypes.h."""


class PassKernels(ABC):
    """Kernels with passes of their own; a subclass adds `completed`, which `Kernels` also asks for.

    Attributes:
        devices: the types of device that they merge on; empty for all.
        block: the elements that a pass takes; by default more than any tensor has.
        written: the dtypes that a pass can write instead of the merge's.
    """

    compiles = True
    devices: tuple[str, ...] = ()
    block = sys.maxsize
    written: frozenset[torch.dtype] = frozenset()

    def covers(self, method: Method, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether there is a pass for the method that knows the dtype and merges on the device."""
        return method.combining in _PASSES and dtype in FORMATS and (not self.devices or device.type in self.devices)

    def merge(self, method: Method, operands: Operands, parameters: ParameterValues, target: Target) -> Finite:
        """Merge one tensor in passes over its blocks."""
        prepared = method.prepare(operands, parameters)
        run, dtype, out = _PASSES[method.combining], operands.dtype, target.out
        in_place = (
            target.roundings == (dtype,) and out.dtype in {dtype, *self.written} and out.device == operands.device
        )

        def write(block: Block) -> Finite:
            merged = target.part(block) if in_place else torch.empty(len(block), dtype=dtype, device=operands.device)
            finite = run(self, operands, block, prepared, merged)
            if finite is None:
                return target.write(block, method.combine(block, prepared).view(-1))
            return finite if in_place else target.write(block, merged)

        return write_blocks(operands.blocks(self.block), write)

    @abstractmethod
    def weighted_sum(
        self,
        parents: Sequence[Tensor],
        weights: Sequence[float],
        out: Tensor,
        divisor: float | None = None,
        fma: bool = False,
    ) -> Finite:
        """Write sum(weight * parent) [/ divisor] into `out`, computed in float32; return whether it is finite.

        Args:
            parents: flat, contiguous tensors of one length and dtype, which the sum is rounded to.
            weights: one number per parent.
            out: like one of the parents, or of a dtype of `written`.
            divisor: what the sum is divided by.
            fma: whether products are added unrounded.
        """

    @abstractmethod
    def mix(self, operands: Operands, block: Block, mixture: Mixture, out: Tensor) -> Finite:
        """Write a mixture of task vectors, added to the base, into `out`; return whether it is finite."""


# Writes the merge of a block and returns whether it is finite, or returns None to leave the block to `combine`.
Pass: TypeAlias = Callable[[PassKernels, Operands, Block, Any, Tensor], Finite | None]


def _linear(kernels: PassKernels, _: Operands, block: Block, average: WeightedSum, out: Tensor) -> Finite:
    return kernels.weighted_sum(block.inputs, average.weights, out, average.divisor, fma=True)


def _slerp(kernels: PassKernels, _: Operands, block: Block, factors: WeightedSum, out: Tensor) -> Finite:
    return kernels.weighted_sum((block.base, *block.inputs), factors.weights, out)


def _mix(kernels: PassKernels, operands: Operands, block: Block, mixture: Mixture, out: Tensor) -> Finite | None:
    if not mixture.finite or not mixture.contributions:
        return None
    return kernels.mix(operands, block, mixture, out)


# Each pass, by the function that it equals bit for bit.
_PASSES: Mapping[Combine, Pass] = {linear: _linear, slerp: _slerp, mix: _mix}


class PassKind(enum.IntEnum):
    """The kinds of sparsification that a pass can be compiled for, as task_vectors.c counts them."""

    TOP_K = 0
    BAND = 1
    RANDOM = 2
    RANKED = 3
    RANKED_WIDE = 4


def kind_of(sparsifications: Iterable[Sparsification | None]) -> PassKind:
    """Return the kind of pass that can apply all of these sparsifications."""
    return max(map(_kind, filter(None, sparsifications)), default=PassKind.TOP_K)


def _kind(sparsification: Sparsification) -> PassKind:
    if sparsification.ranks is not None:
        return PassKind.RANKED if sparsification.ranks.dtype == torch.int16 else PassKind.RANKED_WIDE
    if sparsification.key is not None:
        return PassKind.RANDOM
    return PassKind.TOP_K if sparsification.ceiling == NO_CEILING else PassKind.BAND
