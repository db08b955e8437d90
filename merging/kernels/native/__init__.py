"""The CPU's fast passes: C that is compiled on the machine that runs it."""

from merging.kernels.native.native_kernels import NativeKernels

__all__ = ["NativeKernels"]
