"""Kernels: how a method is computed over a tensor, block by block, in C or as one function on a GPU.

`Kernels` is the one protocol, `EAGER` the way that always works. On the CPU the only fast path is C (native/); a GPU
merges with functions that torch.compile fuses (compiled/). These are not for the CPU, where a candidate of the C passes
costs less. Merging 3 x 135M parameters in bfloat16 took one core, in CPU seconds:

| method, instructions | C | torch.compile | first candidate from cold: C | torch.compile |
|---|---|---|---|---|
| ties, AVX-512   | 0.10 | 0.79 | 0.24 | 10.3 |
| ties, AVX2      | 0.16 | 0.91 | 0.26 | 7.7 |
| linear, AVX-512 | 0.05 | 0.34 | 0.08 | 1.3 |
| linear, AVX2    | 0.05 | 0.17 | 0.08 | 1.0 |
"""

from merging.kernels.eager import EAGER
from merging.kernels.protocol import Kernels, Target

__all__ = ["EAGER", "Kernels", "Target"]
