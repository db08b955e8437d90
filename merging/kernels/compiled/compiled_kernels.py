"""The functions of this package, compiled when they are first needed and called with the numbers of one tensor.

Guarantees: a function is compiled once per form, number of parents, dtype and device, whatever the sizes and the
numbers are; a call enqueues work and waits for nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from merging.arithmetic.bits import Finite, all_finite
from merging.errors import MergingError, first_line
from merging.kernels.compiled.mixture import DIVISOR, LAMBDA, Column, MixtureForm, merge_task_vectors
from merging.kernels.compiled.weighted_sum import SumForm, weighted_sum
from merging.kernels.passes import PassKernels, kind_of
from merging.methods.operands import Block, Operands
from merging.methods.sparsification import Sparsification, whole_norm
from merging.methods.task_vectors import Mixture, cannot_overflow

Function: TypeAlias = Callable[..., Any]

_KEEP_ALL = Sparsification()
# Rounds as eager PyTorch does, step by step: no product is fused with a sum, no division approximated. Sizes are not
# asserted in every call: all callers are in this file.
_OPTIONS: dict[str, Any] = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "size_asserts": False,
}


def compiled(function: Function, form: object) -> Function:
    """Return a function compiled for a form, for every size, with the rounding of eager PyTorch."""
    assert isinstance(function, FunctionType)
    # A code object of its own: dynamo keeps only a few compiled functions per code object, and tries them in turn.
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return partial(torch.compile(own, dynamic=True, fullgraph=True, options=_OPTIONS), form)


class CompiledKernels(PassKernels):
    """The compiled functions of this process. They merge on any device, but are worth compiling only for a GPU.

    Args:
        compile: compiles a function for a form; by default with torch.compile.
    """

    @classmethod
    def on(cls, device: torch.device) -> CompiledKernels:
        """Return kernels for a device. Raises MergingError, with the reason, if torch.compile cannot compile for it."""
        try:
            compiled(_one_more, None)(torch.zeros(8, device=device))
        except Exception as error:  # torch, Triton and the compilers each raise their own
            raise MergingError(
                f"torch.compile does not work on {device} ({first_line(error)}); it needs Triton and a C compiler"
            ) from None
        return cls()

    def __init__(self, compile: Callable[[Function, object], Function] = compiled) -> None:
        self._compile = compile
        self._functions: dict[object, Function] = {}

    def completed(
        self, operands: Operands, index: int, sparsification: Sparsification, rescale: bool
    ) -> Sparsification:
        """Leave the search and the scale to the pass: it finds them on the device, and the host waits for nothing."""
        return replace(sparsification, norm=whole_norm(operands, index)) if rescale else sparsification

    def mix(self, operands: Operands, block: Block, mixture: Mixture, out: Tensor) -> Finite:
        """Write a mixture of task vectors, added to the base, into `out`; return whether it is finite.

        A separate pass checks for that: a reduction in the same one would make the compiler write the tensor in float32
        and read it again.
        """
        given = [each.sparsification or _KEEP_ALL for each in mixture.contributions]
        own = [each.ranks if each.ranks is None else block.part(each.ranks) for each in given]
        found = [ranks for ranks in own if ranks is not None]
        ranks = [found[0] if each is None else each for each in own] if found else []
        form = MixtureForm(
            kind_of(given),
            mixture.elect,
            mixture.normalize,
            rescale=any(each.norm for each in given),
            search=block.base.element_size() == 2 and any(map(_has_edges, given)),
        )
        rows = [_row(each, weight) for each, weight in zip(given, mixture.weights, strict=True)]
        last = [0.0] * len(Column)
        last[DIVISOR], last[LAMBDA] = mixture.divisor, mixture.scale
        table = _on(block.base.device, [*chain.from_iterable(rows), *last], "d").view(-1, len(Column))
        function = self._function(merge_task_vectors, form, len(given), block.base)
        function(block.base, [block.inputs[each.index] for each in mixture.contributions], ranks, table, out)
        return cannot_overflow(operands, mixture) or all_finite(out)

    def weighted_sum(
        self,
        parents: Sequence[Tensor],
        weights: Sequence[float],
        out: Tensor,
        divisor: float | None = None,
        fma: bool = False,
    ) -> Finite:
        """Write sum(weight * parent) [/ divisor] into `out`; return whether it is finite."""
        form = SumForm(divisor is not None, fma)
        numbers = _on(out.device, [*weights, 1.0 if divisor is None else divisor], "f")
        self._function(weighted_sum, form, len(parents), out)(list(parents), numbers, out)
        return all_finite(out)

    def _function(self, function: Function, form: object, parents: int, like: Tensor) -> Function:
        key = (form, parents, like.dtype, like.device)
        if key not in self._functions:
            self._functions[key] = self._compile(function, form)
        return self._functions[key]


def _one_more(_: None, values: Tensor) -> Tensor:
    return values + 1


def _has_edges(sparsification: Sparsification) -> bool:
    # True even if no edge happens to have a rank: that is not worth a compilation of its own.
    return any(edge.before != edge.after for edge in (sparsification.floor, sparsification.ceiling))


def _row(given: Sparsification, weight: float) -> list[float]:
    edges = ((edge.until, edge.rank, edge.before, edge.after) for edge in (given.floor, given.ceiling))
    return [
        *chain.from_iterable(edges), *(given.key or (0, 0)), given.limit, given.slope, given.intercept, given.norm,
        weight,
    ]  # fmt: skip


def _on(device: torch.device, numbers: Sequence[float], kind: Literal["d", "f"]) -> Tensor:
    """Return numbers on a device in float64 or float32, without waiting for it."""
    # From an array, a tensor is made in a third of the time that it takes from a list.
    here = torch.frombuffer(array(kind, numbers), dtype=torch.float64 if kind == "d" else torch.float32)
    # torch reuses the pinned memory only when the copy is done.
    return here if device.type == "cpu" else here.pin_memory().to(device, non_blocking=True)
