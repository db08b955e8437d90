"""The GPU's fast passes: functions of tensors that torch.compile fuses, with the bits of the C passes."""

from merging.kernels.compiled.compiled_kernels import CompiledKernels

__all__ = ["CompiledKernels"]
