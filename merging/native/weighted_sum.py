"""The weighted-sum kernel (weighted_sum.c), called with tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merging.native.compiler import Kernels, Variant
from merging.native.numbers import FORMATS, Float, Long, Pointer


def weighted_sum(
    kernels: Kernels,
    parents: Sequence[Tensor],
    weights: Sequence[float],
    out: Tensor,
    divisor: float | None = None,
    fma: bool = False,
) -> bool:
    """Write sum(weight * parent) [/ divisor] into `out`, computed in float32; return whether all of it is finite.

    Args:
        kernels: the compiled kernels.
        parents: flat, contiguous tensors of one length and one dtype of `FORMATS`, which the sum is rounded to.
        weights: a number a parent.
        out: like one of the parents, or wider: float32.
        divisor: what the sum is divided by.
        fma: whether products are added unrounded.
    """
    flags = {
        "PARENTS": len(parents),
        "FORMAT": FORMATS[parents[0].dtype],
        "WIDE": int(out.dtype != parents[0].dtype),
        "DIVIDE": int(divisor is not None),
        "FMA": int(fma),
    }
    library = kernels.load(Variant("weighted_sum", tuple(flags.items())))
    done: int = library.merge(
        (Pointer * len(parents))(*(parent.data_ptr() for parent in parents)),
        (Float * len(parents))(*weights),
        Pointer(out.data_ptr()),
        Long(out.numel()),
        Float(1.0 if divisor is None else divisor),
    )
    return bool(done)
