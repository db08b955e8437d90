"""The task-vector kernels (task_vectors.c), called with tensors: flat, contiguous, of one dtype of `FORMATS`."""

from __future__ import annotations

import ctypes
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from merging.native.compiler import Kernels, Variant
from merging.native.numbers import FORMATS, Float, Long, Pointer


class Thinning(enum.IntEnum):
    """The ways of thinning out that a kernel can be compiled for."""

    CUT = 0
    BAND = 1
    DROP = 2
    RANKED = 3
    RANKED_WIDE = 4


@dataclass(frozen=True, slots=True)
class Edge:
    """A magnitude: `before` some index of the block, and `after` it.

    Where there is a `rank`, the index lies behind the `rank`-th element of the magnitude from `equal_until` on, for
    kernels that look for it themselves.
    """

    equal_until: int
    before: float
    after: float
    rank: int = 0


NO_FLOOR = Edge(0, -1.0, -1.0)
NO_CEILING = Edge(0, math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Part:
    """How a task vector is thinned out; the defaults keep every element, whatever the kernel's way of thinning.

    Attributes:
        floor: CUT, BAND: larger magnitudes are kept.
        ceiling: BAND: no larger magnitudes are kept.
        key: DROP, RANKED: the keys of the elements' random numbers.
        limit: DROP: smaller numbers are kept.
        ranks: RANKED: the block's ranks, int16 or int32; the limit is ``rank * slope + intercept``.
        scale: what is kept is multiplied by it.
        norm: what its L1 norm shall be instead, where it is not zero, for kernels that find the scale themselves.
    """

    floor: Edge = NO_FLOOR
    ceiling: Edge = NO_CEILING
    key: tuple[int, int] = (0, 0)
    limit: int = 2**31
    ranks: Tensor | None = None
    slope: float = 0.0
    intercept: float = 2.0**31
    scale: float = 1.0
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Form:
    """What a kernel is compiled for."""

    parents: int
    dtype: torch.dtype
    thinning: Thinning
    wide: bool = False
    scaled: bool = False
    elect: bool = False
    normalize: bool = False
    has_lambda: bool = False


@lru_cache
def _variant(form: Form) -> Variant:
    constants = {
        "PARENTS": form.parents,
        "FORMAT": FORMATS[form.dtype],
        "THINNING": int(form.thinning),
        "WIDE": int(form.wide),
        "SCALED": int(form.scaled),
        "ELECT": int(form.elect),
        "NORMALIZE": int(form.normalize),
        "LAMBDA": int(form.has_lambda),
    }
    return Variant("task_vectors", tuple(constants.items()))


class _Edge(ctypes.Structure):
    _fields_ = (("equal_until", Long), ("before", Float), ("after", Float))


class _Part(ctypes.Structure):
    _fields_ = (
        ("parent", Pointer),
        ("ranks", Pointer),
        ("floor", _Edge),
        ("ceiling", _Edge),
        ("slope", Float),
        ("intercept", Float),
        ("key", ctypes.c_uint32),
        ("second_key", ctypes.c_uint32),
        ("last", ctypes.c_int32),
        ("scale", Float),
        ("weight", Float),
    )


def _struct(part: Part, parent: Tensor, weight: float) -> _Part:
    floor, ceiling = part.floor, part.ceiling
    return _Part(
        parent.data_ptr(),
        # Without ranks any memory will do: its numbers are multiplied by zero.
        parent.data_ptr() if part.ranks is None else part.ranks.data_ptr(),
        _Edge(floor.equal_until, floor.before, floor.after),
        _Edge(ceiling.equal_until, ceiling.before, ceiling.after),
        part.slope,
        part.intercept,
        *part.key,
        part.limit - 1,
        part.scale,
        weight,
    )


def merge(
    kernels: Kernels,
    form: Form,
    base: Tensor,
    parts: Sequence[tuple[Part, Tensor, float]],
    out: Tensor,
    start: int,
    divisor: float,
    scale: float,
) -> bool:
    """Merge a block into `out`; return whether all of it is finite.

    Args:
        kernels: the compiled kernels.
        form: what the kernel is compiled for.
        base: the block of the base, (elements,).
        parts: how each parent is thinned out, the block of the parent, and its weight.
        out: (elements,), of the form's dtype, or float32 if the form is wide.
        start: the flat index of the block's first element in its tensor.
        divisor: what the sum is divided by if normalizing: with an election, where both of two parents agree.
        scale: lambda.
    """
    given = (_Part * len(parts))(*(_struct(*part) for part in parts))
    done: int = kernels.load(_variant(form)).merge(
        Pointer(base.data_ptr()),
        given,
        Pointer(out.data_ptr()),
        Long(start),
        Long(base.numel()),
        Float(divisor),
        Float(scale),
    )
    return bool(done)


def absolute_sum(kernels: Kernels, thinning: Thinning, base: Tensor, parent: Tensor, part: Part, start: int) -> float:
    """Return the sum of |x| over a block of a thinned, unscaled task vector that starts at flat index `start`."""
    function = kernels.load(_variant(Form(1, base.dtype, thinning))).absolute_sum
    function.restype = ctypes.c_double
    given = _struct(part, parent, 1.0)
    total: float = function(Pointer(base.data_ptr()), ctypes.byref(given), Long(start), Long(base.numel()))
    return total


def nth_equal(kernels: Kernels, base: Tensor, parent: Tensor, magnitude: float, rank: int) -> int:
    """Return the index in a block of the `rank`-th element (from 1) whose delta has this magnitude."""
    function = kernels.load(_variant(Form(1, base.dtype, Thinning.CUT))).nth_equal
    function.restype = Long
    index: int = function(
        Pointer(base.data_ptr()), Pointer(parent.data_ptr()), Long(base.numel()), Float(magnitude), Long(rank)
    )
    return index
