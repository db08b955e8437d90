"""Arithmetic in float32 that rounds where the C kernels round (merging/kernels/native/dtypes.h).

Compiled with `emulate_precision_casts`, or else a cast to 16 bits and back is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 numbers as a dtype holds them, in float32."""
    return values.to(dtype).float()


def fma(x: Tensor, y: Tensor, addend: Tensor) -> Tensor:
    """Return x * y + addend in float32, rounded once."""
    if x.device.type != "cpu":
        return torch.addcmul(addend, x, y)  # a GPU rounds it once, in a compiled function, too
    # In float64 the product is exact. That the sum is rounded twice shows in one of some 2**29 sums.
    return (x.double() * y.double() + addend.double()).float()
