"""What numbers.h calls the dtypes, and C's types for arguments."""

import ctypes

import torch

FORMATS = {torch.bfloat16: 16, torch.float16: 5, torch.float32: 32}
"""The dtypes that the kernels know, as their constant FORMAT."""

Pointer, Long, Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
