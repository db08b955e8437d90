"""The task-vector kernels (task_vectors.c), called with tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.native.compiler import Kernels, Variant
from merging.native.numbers import FORMATS, Float, Long, Pointer


class Part(ctypes.Structure):
    """A parent as `struct part` of task_vectors.c has it."""

    _fields_ = (
        ("parent", Pointer),
        ("equal_until", Long),
        ("before", Float),
        ("after", Float),
        ("key", ctypes.c_uint32),
        ("second_key", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        ("scale", Float),
        ("weight", Float),
    )


def keep_all() -> Part:
    """Return a part that keeps every element, of a cut as of a drop."""
    return Part(equal_until=0, before=-1.0, after=-1.0, limit=2**31, scale=1.0)


@dataclass(frozen=True, slots=True)
class Form:
    """What a kernel is compiled for."""

    parents: int
    dtype: torch.dtype
    drop: bool = False
    scaled: bool = False
    elect: bool = False
    normalize: bool = False
    has_lambda: bool = False

    def variant(self) -> Variant:
        """Return the constants of task_vectors.c."""
        flags = {
            "PARENTS": self.parents,
            "FORMAT": FORMATS[self.dtype],
            "DROP": int(self.drop),
            "SCALED": int(self.scaled),
            "ELECT": int(self.elect),
            "NORMALIZE": int(self.normalize),
            "LAMBDA": int(self.has_lambda),
        }
        return Variant("task_vectors", tuple(flags.items()))


def merge(
    kernels: Kernels,
    form: Form,
    base: Tensor,
    parts: Sequence[Part],
    out: Tensor,
    start: int,
    divisor: float,
    scale: float,
) -> bool:
    """Merge a block into `out`; return whether all of it is finite.

    Args:
        kernels: the compiled kernels.
        form: what the kernel is compiled for.
        base: the block of the base, (elements,), contiguous, of the form's dtype.
        parts: the parents; their pointers belong to blocks of the same length and dtype.
        out: (elements,), contiguous, of the form's dtype.
        start: the flat index of the block's first element in its tensor.
        divisor: what the sum is divided by if normalizing: with an election, where both of two parents agree.
        scale: lambda.
    """
    library = kernels.load(form.variant())
    given = (Part * len(parts))(*parts)
    done: int = library.merge(
        Pointer(base.data_ptr()),
        given,
        Pointer(out.data_ptr()),
        Long(start),
        Long(base.numel()),
        Float(divisor),
        Float(scale),
    )
    return bool(done)


def absolute_sum(kernels: Kernels, form: Form, base: Tensor, part: Part, start: int) -> float:
    """Return the sum of |x| over a block of a thinned, unscaled delta; `form` has one parent."""
    function = kernels.load(form.variant()).absolute_sum
    function.restype = ctypes.c_double
    total: float = function(Pointer(base.data_ptr()), ctypes.byref(part), Long(start), Long(base.numel()))
    return total


def nth_equal(kernels: Kernels, form: Form, base: Tensor, parent: Tensor, magnitude: float, rank: int) -> int:
    """Return the index of the `rank`-th element (from 1) of a block whose delta has this magnitude; `form` as above."""
    function = kernels.load(form.variant()).nth_equal
    function.restype = Long
    index: int = function(
        Pointer(base.data_ptr()), Pointer(parent.data_ptr()), Long(base.numel()), Float(magnitude), Long(rank)
    )
    return index
