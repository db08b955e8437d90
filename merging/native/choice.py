"""Whether compiled kernels are used: where they are wanted, or else where they save more time than they take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from merging.errors import MergingError
from merging.native.compiler import Kernels

# Below, compiling takes longer than it saves: seconds, against nanoseconds for each element of each candidate.
_WORTH_COMPILING = 1_000_000_000


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The kernels to merge with, or None; and what a person should know of that, in a sentence, or nothing."""

    kernels: Kernels | None
    note: str = ""


def choose_kernels(elements: int, device: torch.device, wanted: bool | None = None) -> KernelChoice:
    """Choose how to merge.

    Args:
        elements: how many will be merged, all candidates together.
        device: where; the kernels are for the CPU.
        wanted: whether to compile; None leaves it to what pays.

    Raises:
        MergingError: kernels are wanted, and there is no compiler, or the device is another.
    """
    if wanted and device.type != "cpu":
        raise MergingError(f"compiled kernels merge on the CPU, and the device is {device}; leave compile out")
    if wanted is False or device.type != "cpu" or (wanted is None and elements < _WORTH_COMPILING):
        return KernelChoice(None)
    try:
        return KernelChoice(Kernels())
    except MergingError as error:
        if wanted:
            raise
        return KernelChoice(None, f"{error}: merging takes longer without")
