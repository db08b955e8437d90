"""Floating-point numbers as the integers that hold their bits.

On a CPU an integer operation on a 16-bit tensor costs a third of a floating-point one, and a comparison (a bool tensor)
four times as much; elections are therefore decided on bits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_bits(values: Tensor) -> Tensor:
    """Return the same memory as signed integers: negative where the sign bit is set."""
    return values.view(bits_dtype(values.dtype))


def bits_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the integer dtype of a floating-point dtype's width."""
    return _INTEGERS[dtype.itemsize]


@lru_cache(1 << 16)
def bits_of(number: float, dtype: torch.dtype) -> int:
    """Return the bits of a number in a dtype, as a signed integer."""
    return int(as_bits(torch.tensor(number, dtype=dtype)))


@lru_cache(1 << 16)
def number_of(bits: int, dtype: torch.dtype) -> float:
    """Return the number of a dtype that has these bits."""
    return float(torch.tensor(bits, dtype=bits_dtype(dtype)).view(dtype))


def magnitude_mask(dtype: torch.dtype) -> int:
    """Return the bits that make up |x|: all but the sign."""
    return torch.iinfo(bits_dtype(dtype)).max


def all_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    if values.numel() == 0:
        return True
    # Both pass a NaN on; a pass that writes nothing costs less than one on the bits, which would.
    lowest, highest = torch.aminmax(values)
    return math.isfinite(lowest) and math.isfinite(highest)
