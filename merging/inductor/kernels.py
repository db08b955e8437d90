"""The functions of this package, compiled when they are first needed, called with the numbers of one step.

Guarantees: a function is compiled once for a form, a number of parents, a dtype and a device, whatever the sizes and
the numbers are; a call enqueues work and waits for nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from merging.errors import MergingError, first_line
from merging.inductor.task_vectors import DIVISOR, LAMBDA, Number, TensorForm, merge_task_vectors
from merging.inductor.weighted_sum import SumForm, weighted_sum
from merging.native.compiler import Kernels
from merging.native.task_vectors import Form, Part

Function: TypeAlias = Callable[..., Any]

# Rounding as eager PyTorch's, step by step: no product is fused with a sum, no division approximated. Sizes are not
# asserted in every call: who calls is in this file.
_OPTIONS: dict[str, Any] = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "size_asserts": False,
}


def compiled(function: Function, form: object) -> Function:
    """Return a function compiled for a form, for every size, with the rounding of eager PyTorch."""
    assert isinstance(function, FunctionType)
    # Code of its own: dynamo keeps a few compiled functions for each code, and looks for the right one in turn.
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return partial(torch.compile(own, dynamic=True, fullgraph=True, options=_OPTIONS), form)


class TensorKernels:
    """The compiled functions of this process.

    Args:
        compile: makes the function for a form; by default torch.compile does.
    """

    @classmethod
    def on(cls, device: torch.device) -> TensorKernels:
        """Return kernels for a device. Raises MergingError, with the reason, if torch.compile cannot compile for it."""
        try:
            compiled(_one_more, None)(torch.zeros(8, device=device))
        except Exception as error:  # torch, Triton and the compilers each have their own
            raise MergingError(
                f"torch.compile does not work on {device} ({first_line(error)}); it needs Triton and a C compiler"
            ) from None
        return cls()

    def __init__(self, compile: Callable[[Function, object], Function] = compiled) -> None:
        self._compile = compile
        self._functions: dict[object, Function] = {}

    def merge(
        self,
        form: Form,
        base: Tensor,
        parts: Sequence[tuple[Part, Tensor, float]],
        out: Tensor,
        divisor: float,
        scale: float,
    ) -> None:
        """Merge a whole tensor into `out`.

        Whether that is finite is not found in the same pass: a reduction in it would make the compiler write the tensor
        down in float32 and read it again.

        Args:
            form: what is done.
            base: (elements,).
            parts: how each parent is thinned out, the parent's tensor, and its weight.
            out: (elements,).
            divisor: what the sum is divided by if normalizing without an election.
            scale: lambda.
        """
        thinned = [part for part, _, _ in parts]
        found = [part.ranks for part in thinned if part.ranks is not None]
        ranks = [part.ranks if part.ranks is not None else found[0] for part in thinned] if found else []
        what = TensorForm(
            form.thinning,
            form.elect,
            form.normalize,
            rescale=any(part.norm for part in thinned),
            search=base.element_size() == 2 and any(map(_is_cut, thinned)),
        )
        rows = [_row(part, weight) for part, _, weight in parts]
        last = [0.0] * len(Number)
        last[DIVISOR], last[LAMBDA] = divisor, scale
        table = _on(base.device, [*chain.from_iterable(rows), *last], "d").view(-1, len(Number))
        function = self._function(merge_task_vectors, what, len(parts), base)
        function(base, [parent for _, parent, _ in parts], ranks, table, out)

    def weighted_sum(
        self,
        parents: Sequence[Tensor],
        weights: Sequence[float],
        out: Tensor,
        divisor: float | None = None,
        fma: bool = False,
    ) -> None:
        """Write sum(weight * parent) [/ divisor] into `out`."""
        form = SumForm(divisor is not None, fma)
        numbers = _on(out.device, [*weights, 1.0 if divisor is None else divisor], "f")
        self._function(weighted_sum, form, len(parents), out)(list(parents), numbers, out)

    def _function(self, function: Function, form: object, parents: int, like: Tensor) -> Function:
        key = (form, parents, like.dtype, like.device)
        if key not in self._functions:
            self._functions[key] = self._compile(function, form)
        return self._functions[key]


def _one_more(_: None, values: Tensor) -> Tensor:
    return values + 1


def _is_cut(part: Part) -> bool:
    # Also where no edge has a rank by chance: that is not worth to be compiled apart.
    return any(edge.before != edge.after for edge in (part.floor, part.ceiling))


def _row(part: Part, weight: float) -> list[float]:
    floor, ceiling = part.floor, part.ceiling
    return [
        floor.equal_until, floor.rank, floor.before, floor.after,
        ceiling.equal_until, ceiling.rank, ceiling.before, ceiling.after,
        *part.key, part.limit, part.slope, part.intercept, part.scale, part.norm, weight,
    ]  # fmt: skip


def _on(device: torch.device, numbers: Sequence[float], kind: Literal["d", "f"]) -> Tensor:
    """Return numbers on a device in float64 or float32, without waiting for it."""
    # Of an array a tensor is made in a third of the time that one of a list is.
    here = torch.frombuffer(array(kind, numbers), dtype=torch.float64 if kind == "d" else torch.float32)
    # The pinned memory is used again when the copy is done: torch sees to that.
    return here if device.type == "cpu" else here.pin_memory().to(device, non_blocking=True)


AnyKernels: TypeAlias = Kernels | TensorKernels
