"""Floating-point numbers as the integers that hold their bits.

On a CPU an integer operation on a 16-bit tensor costs a third of a floating-point one, and a comparison (a bool tensor)
four times as much; elections are therefore decided on bits.
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

_FORMATS = {torch.float16: ("<e", "<h"), torch.float32: ("<f", "<i"), torch.float64: ("<d", "<q")}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_bits(values: Tensor) -> Tensor:
    """Return the same memory as signed integers: negative where the sign bit is set."""
    return values.view(bits_dtype(values.dtype))


def bits_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the integer dtype of a floating-point dtype's width."""
    return _INTEGERS[dtype.itemsize]


def bits_of(number: float, dtype: torch.dtype) -> int:
    """Return the bits of a finite number in a dtype, as a signed integer."""
    # Without torch, whose tensors cost more than one number's bits.
    if dtype == torch.bfloat16:
        (bits,) = struct.unpack("<i", struct.pack("<f", number))
        return int(bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    floating, whole = _FORMATS[dtype]
    (bits,) = struct.unpack(whole, struct.pack(floating, number))
    return int(bits)


def number_of(bits: int, dtype: torch.dtype) -> float:
    """Return the number of a dtype that has these bits."""
    if dtype == torch.bfloat16:
        bits, dtype = bits << 16, torch.float32
    floating, whole = _FORMATS[dtype]
    (number,) = struct.unpack(floating, struct.pack(whole, bits))
    return float(number)


def magnitude_mask(dtype: torch.dtype) -> int:
    """Return the bits that make up |x|: all but the sign."""
    return torch.iinfo(bits_dtype(dtype)).max


def all_finite(values: Tensor) -> bool | Tensor:
    """Whether no element is NaN or infinite: of a device that the host does not wait for, as a tensor, () bool."""
    if values.numel() == 0:
        return True
    # Both pass a NaN on; a pass that writes nothing costs less than one on the bits, which would.
    lowest, highest = torch.aminmax(values)
    if values.device.type != "cpu":
        return torch.isfinite(lowest) & torch.isfinite(highest)
    return math.isfinite(lowest) and math.isfinite(highest)
