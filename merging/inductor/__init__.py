"""The hot loops as functions of tensors, fused by torch.compile: what a GPU merges with, with merging/native's bits."""

from merging.inductor.kernels import AnyKernels, TensorKernels

__all__ = ["AnyKernels", "TensorKernels"]
