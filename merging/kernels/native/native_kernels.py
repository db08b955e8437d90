"""The passes in C, called with tensors: flat, contiguous, of one dtype of `FORMATS`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from merging.arithmetic.magnitude_table import RUN
from merging.kernels.native.compiler import Compiler, Variant
from merging.kernels.passes import FORMATS, PassKernels, PassKind, kind_of
from merging.methods.magnitudes import Edge
from merging.methods.operands import Block, Operands
from merging.methods.sparsification import Sparsification, rescaled
from merging.methods.task_vectors import Contribution, Mixture, rounded

_Pointer, _Long, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
# A pass holds no intermediate tensors, so a block is only the work that a thread does at a time.
_BLOCK = 1 << 22
_KEEP_ALL = Sparsification()


class NativeKernels(PassKernels):
    """Kernels in C for the CPU.

    Args:
        block: the elements that a pass takes.

    Raises:
        MergingError: there is no C compiler, or no folder that a library can be loaded from.
    """

    devices = ("cpu",)
    written = frozenset({torch.float32})  # it holds everything that the passes round to

    def __init__(self, block: int = _BLOCK) -> None:
        self._compiler = Compiler()
        self.block = block

    def weighted_sum(
        self,
        parents: Sequence[Tensor],
        weights: Sequence[float],
        out: Tensor,
        divisor: float | None = None,
        fma: bool = False,
    ) -> bool:
        """Write sum(weight * parent) [/ divisor] into `out`; return whether it is finite."""
        flags = {"WIDE": out.dtype != parents[0].dtype, "DIVIDE": divisor is not None, "FMA": fma}
        library = self._compiler.load(_variant("weighted_sum", len(parents), parents[0].dtype, **flags))
        done: int = library.merge(
            (_Pointer * len(parents))(*(parent.data_ptr() for parent in parents)),
            (_Float * len(parents))(*weights),
            _Pointer(out.data_ptr()),
            _Long(out.numel()),
            _Float(1.0 if divisor is None else divisor),
        )
        return bool(done)

    def mix(self, operands: Operands, block: Block, mixture: Mixture, out: Tensor) -> bool:  # noqa: ARG002
        """Write a mixture of task vectors, added to the base, into `out`; return whether it is finite."""
        given, dtype = mixture.contributions, block.base.dtype
        variant = _variant(
            "task_vectors",
            len(given),
            dtype,
            KIND=kind_of(each.sparsification for each in given),
            WIDE=out.dtype != dtype,
            SCALED=any(each.sparsification and each.sparsification.scale != 1.0 for each in given),
            ELECT=mixture.elect,
            NORMALIZE=mixture.normalize,
            LAMBDA=mixture.scale != 1.0,
        )
        # With an election, only a pass for two parents reads it: the sum of their weights, where both agree.
        divisor = rounded(mixture.weights, dtype)[1] or 1.0 if mixture.elect else mixture.divisor
        done: int = self._compiler.load(variant).merge(
            _Pointer(block.base.data_ptr()),
            (_Contribution * len(given))(*(_struct(each, block) for each in given)),
            _Pointer(out.data_ptr()),
            _Long(block.start),
            _Long(len(block)),
            _Float(divisor),
            _Float(mixture.scale),
        )
        return bool(done)

    def completed(
        self, operands: Operands, index: int, sparsification: Sparsification, rescale: bool
    ) -> Sparsification:
        """Search the runs that edges lie in; sum up what is kept in a separate pass."""
        found = sparsification
        if found.floor.rank or found.ceiling.rank:
            floor, ceiling = (self._located(operands, index, edge) for edge in (found.floor, found.ceiling))
            found = replace(found, floor=floor, ceiling=ceiling)
        return rescaled(operands, index, found, self._kept_norm(operands, index, found)) if rescale else found

    def _located(self, operands: Operands, index: int, edge: Edge) -> Edge:
        if not edge.rank:
            return edge
        block = operands.block(edge.until, RUN)
        function = self._one_parent(PassKind.TOP_K, block.base.dtype).nth_equal
        function.restype = _Long
        position: int = function(
            _Pointer(block.base.data_ptr()),
            _Pointer(block.inputs[index].data_ptr()),
            _Long(len(block)),
            _Float(max(edge.before, edge.after)),
            _Long(edge.rank),
        )
        return replace(edge, until=edge.until + position + 1, rank=0)

    def _kept_norm(self, operands: Operands, index: int, sparsification: Sparsification) -> float:
        # Blocks may have any size: 16-bit sums are exact, except for elements a millionth as large as the largest.
        contribution = Contribution(index, 1.0, sparsification, 0.0)
        function = self._one_parent(kind_of([sparsification]), operands.dtype).absolute_sum
        function.restype = ctypes.c_double
        return math.fsum(
            function(
                _Pointer(block.base.data_ptr()),
                ctypes.byref(_struct(contribution, block)),
                _Long(block.start),
                _Long(len(block)),
            )
            for block in operands.blocks(_BLOCK)
        )

    def _one_parent(self, kind: PassKind, dtype: torch.dtype) -> ctypes.CDLL:
        flags = dict.fromkeys(("WIDE", "SCALED", "ELECT", "NORMALIZE", "LAMBDA"), False)
        return self._compiler.load(_variant("task_vectors", 1, dtype, KIND=kind, **flags))


@lru_cache
def _variant(source: str, parents: int, dtype: torch.dtype, **constants: int) -> Variant:
    all_of_them = {"PARENTS": parents, "FORMAT": FORMATS[dtype], **constants}
    return Variant(source, tuple((name, int(value)) for name, value in all_of_them.items()))


class _Edge(ctypes.Structure):
    _fields_ = (("until", _Long), ("before", _Float), ("after", _Float))


class _Contribution(ctypes.Structure):
    _fields_ = (
        ("parent", _Pointer),
        ("ranks", _Pointer),
        ("floor", _Edge),
        ("ceiling", _Edge),
        ("slope", _Float),
        ("intercept", _Float),
        ("key", ctypes.c_uint32),
        ("second_key", ctypes.c_uint32),
        ("last", ctypes.c_int32),
        ("scale", _Float),
        ("weight", _Float),
    )


def _struct(contribution: Contribution, block: Block) -> _Contribution:
    parent, given = block.inputs[contribution.index], contribution.sparsification or _KEEP_ALL
    return _Contribution(
        parent.data_ptr(),
        # Without ranks any memory will do: its numbers are multiplied by zero.
        parent.data_ptr() if given.ranks is None else given.ranks[block.start :].data_ptr(),
        *(_Edge(edge.until - block.start, edge.before, edge.after) for edge in (given.floor, given.ceiling)),
        given.slope,
        given.intercept,
        *(given.key or (0, 0)),
        given.limit - 1,
        given.scale,
        contribution.weight,
    )
