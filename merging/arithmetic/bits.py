"""Floating-point numbers as the integers that hold their bits.

Elections are decided on bits: on a CPU an integer operation on a 16-bit tensor costs a third of a floating-point one,
and a comparison (a bool tensor) four times as much.
"""

from __future__ import annotations

import math
import struct
from typing import TypeAlias

import torch
from torch import Tensor

Finite: TypeAlias = bool | Tensor
"""Whether something is finite; on a device, a tensor, () bool, so that the host does not wait for it."""

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
    # Making a torch tensor would cost more than finding the bits of one number.
    if dtype == torch.bfloat16:
        (bits,) = struct.unpack("<i", struct.pack("<f", number))
        return int(bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    if dtype == torch.float16:  # torch rounds a Python number to float32 first
        (number,) = struct.unpack("<f", struct.pack("<f", number))
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


def all_finite(values: Tensor) -> Finite:
    """Whether no element is NaN or infinite; a tensor, () bool, if the host would have to wait for the device."""
    if values.numel() == 0:
        return True
    # The minimum and the maximum propagate NaN. A pass on the bits would write memory, and cost more.
    lowest, highest = torch.aminmax(values)
    if values.device.type != "cpu":
        return torch.isfinite(lowest) & torch.isfinite(highest)
    return math.isfinite(lowest) and math.isfinite(highest)
