"""The memory of statistics, from what methods declare and from sizes: a search must leave room for it.

Guarantees: what is kept for each candidate is exact for the methods that keep tensors of the parents' size; magnitude
tables and the memory needed while a statistic is computed are upper bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod

from merging.methods import METHODS

# Bytes per element. Each of float16's 2**15 magnitudes may occur in a run of 2**16 elements, and takes an int32 there;
# of bfloat16, with 7 bits of mantissa, the magnitudes of 30 powers of two do.
_TABLE = {"float16": 2.0, "float32": 2.0, "float64": 2.0, "bfloat16": 0.25}
_INT16 = 1 << 15
# A decomposition (or an optimizer) of a matrix holds its factors, copies, and the solver's memory besides.
_SOLVING = 8
# Elements whose magnitudes a GPU counts or ranks at once, and the bytes that each takes meanwhile.
_AT_ONCE, _COUNTING = 1 << 24, 24
# On a CPU: blocks of a few tensors, and the freed ones that glibc keeps (tests/benchmarks/merging_peaks.py).
_IN_BLOCKS = 300_000_000


@dataclass(frozen=True, slots=True)
class StatisticsBytes:
    """The bytes that statistics take.

    Attributes:
        kept: tensors that each candidate reads: on the device if that has room, else pinned on the host.
        host: tables on the host, wherever the parents are.
        working: the most that a merge also needs on the device, be it to compute a statistic of a tensor.
    """

    kept: int
    host: int
    working: int


def statistics_bytes(
    methods: Collection[str],
    tensors: Iterable[tuple[tuple[int, ...], bool]],
    inputs: int,
    dtype: str = "bfloat16",
    *,
    on_gpu: bool = True,
) -> StatisticsBytes:
    """Return the bytes of the statistics that methods keep of parents.

    Args:
        methods: the methods that the search may merge with.
        tensors: for each tensor of the merge, its shape and whether it is the matrix of a linear layer.
        inputs: the number of models that are merged, without the base.
        dtype: the dtype of the merge.
        on_gpu: whether a GPU merges.
    """
    used = [METHODS[name] for name in methods]
    keeps, observes = {method.keeps for method in used}, {method.observes for method in used}
    has_tables, has_ranks = bool(keeps & {"magnitudes", "variance"}), "ranks" in keeps
    sees_whole = "variance" in keeps or any(method.whole for method in used)
    wide = 8 if dtype == "float64" else 4
    kept, host, working = 0, 0, 0 if on_gpu else _IN_BLOCKS
    for shape, is_matrix in tensors:
        elements = prod(shape)
        if has_ranks:
            kept += inputs * elements * (2 if (shape[1] if len(shape) > 1 else elements) <= _INT16 else 4)
        if has_tables:
            host += int(inputs * elements * _TABLE[dtype])
        if on_gpu and (has_ranks or has_tables):
            working = max(working, min(elements, _AT_ONCE) * _COUNTING)
        if sees_whole:
            working = max(working, (2 * (inputs + 1) + 1) * elements * wide)
        if is_matrix and keeps & {"matrix", "matrix per input"}:
            kept += elements * wide * (inputs if "matrix per input" in keeps else 1)
            working = max(working, (2 * inputs + _SOLVING) * elements * wide)
        if is_matrix and "gram" in observes:
            gram = shape[-1] ** 2
            kept += inputs * gram * 4 + elements * (2 if dtype.endswith("16") else wide)
            working = max(working, (inputs + 3) * (gram + elements) * 8)
        if "fisher" in observes:
            kept += inputs * elements * 4
    return StatisticsBytes(kept, host, working)


def calibration_bytes(methods: Collection[str], elements: int) -> int:
    """Return the bytes that a device needs to run one parent over a calibration file, without the observations.

    Args:
        methods: the methods that the search may merge with.
        elements: the number of the parent's elements.
    """
    return 4 * elements if any(METHODS[name].observes for name in methods) else 0
