"""Arithmetic in float32 that rounds where the C kernels round (merging/kernels/native/dtypes.h).

Must be compiled with `emulate_precision_casts`: else the compiler leaves out casts to 16 bits and back.
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
        return torch.addcmul(addend, x, y)  # a GPU rounds it once, also in a compiled function
    # In float64 the product is exact. The sum is rounded twice, which changes about one in 2**29 sums.
    return (x.double() * y.double() + addend.double()).float()
