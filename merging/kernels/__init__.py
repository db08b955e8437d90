"""Kernels: how a method is computed over a tensor, block by block, in C or as one function on a GPU.

`Kernels` is the one protocol, `EAGER` the way that always works. On the CPU the only fast path is C (native/); a GPU
merges with functions that torch.compile fuses (compiled/), which on a CPU would be slower than C.
"""

from merging.kernels.eager import EAGER
from merging.kernels.interface import Kernels, Target

__all__ = ["EAGER", "Kernels", "Target"]
