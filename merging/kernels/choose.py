"""Whether compiled kernels are used: where they are wanted, or else where they save more time than they take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from merging.errors import MergingError
from merging.kernels import EAGER, Kernels
from merging.kernels.compiled import CompiledKernels
from merging.kernels.native import NativeKernels

# Below, compiling takes longer than it saves: seconds, against nanoseconds for each element of each candidate. A GPU
# saves some 50 picoseconds, a pass over the memory for each of twenty operations, and Triton takes longer.
_WORTH_COMPILING = {"cpu": 1_000_000_000, "cuda": 500_000_000_000}


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The kernels to merge with; and what a person should know of that, in a sentence, or nothing."""

    kernels: Kernels
    note: str = ""


def choose_kernels(elements: int, device: torch.device, wanted: bool | None = None) -> KernelChoice:
    """Choose how to merge: in C on the CPU, with torch.compile on a GPU, or eagerly.

    Args:
        elements: how many will be merged, all candidates together.
        device: where.
        wanted: whether to compile; None leaves it to what pays.

    Raises:
        MergingError: kernels are wanted, and there is no compiler, or the device is another.
    """
    least = _WORTH_COMPILING.get(device.type)
    if wanted and least is None:
        raise MergingError(f"compiled kernels merge on the CPU or a GPU, and the device is {device}; leave compile out")
    if wanted is False or least is None or (wanted is None and elements < least):
        return KernelChoice(EAGER)
    try:
        return KernelChoice(NativeKernels() if device.type == "cpu" else CompiledKernels.on(device))
    except MergingError as error:
        if wanted:
            raise
        return KernelChoice(EAGER, f"{error}: merging takes longer without")
