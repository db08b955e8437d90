"""The hot loops in C, compiled on the machine that runs them; every one has an equal in torch, with the same bits."""

from merging.native.compiler import Kernels
from merging.native.numbers import FORMATS

__all__ = ["FORMATS", "Kernels"]
