"""The choice of kernels: compiled ones if they are wanted, or if they save more time than compiling takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from merging.errors import MergingError
from merging.kernels import EAGER, Kernels
from merging.kernels.compiled import CompiledKernels
from merging.kernels.native import NativeKernels

# With fewer elements, compiling takes longer than it saves: seconds, against nanoseconds per element and candidate. A
# GPU saves some 50 picoseconds (a pass over memory for each of twenty operations), and Triton takes longer.
_WORTH_COMPILING = {"cpu": 1_000_000_000, "cuda": 500_000_000_000}


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The kernels to merge with, and a sentence about them for the user, or an empty one."""

    kernels: Kernels
    note: str = ""


def choose_kernels(elements: int, device: torch.device, wanted: bool | None = None) -> KernelChoice:
    """Choose how to merge: in C on the CPU, with torch.compile on a GPU, or eagerly.

    Args:
        elements: the number of elements that all candidates together merge.
        device: the device that merges.
        wanted: whether to compile; None compiles if that saves time.

    Raises:
        MergingError: compiled kernels are wanted, but there is no compiler, or the device is neither a CPU nor a GPU.
    """
    least = _WORTH_COMPILING.get(device.type)
    if wanted and least is None:
        raise MergingError(f"compiled kernels merge on the CPU or a GPU, but the device is {device}; leave compile out")
    if wanted is False or least is None or (wanted is None and elements < least):
        return KernelChoice(EAGER)
    try:
        return KernelChoice(NativeKernels() if device.type == "cpu" else CompiledKernels.on(device))
    except MergingError as error:
        if wanted:
            raise
        return KernelChoice(EAGER, f"{error}; merging takes longer without it")
