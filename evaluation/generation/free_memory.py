"""How much memory a batch may fill, and how to recognize that memory ran out.

`free_host_bytes` and `is_out_of_memory` are also in merging, since neither package may import the other; a test holds
both to the same answers.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

# Part of the free memory that stays free: for logits and activations, and for other programs on the machine.
_LEFT_FREE = 0.4
# What errors say: the host's, a device's, and those of the libraries that compute on it.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
# The files of a memory control group, versions 2 and 1: limit, usage, and the cached files that count as usage.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device) -> int:
    """Return the memory that a batch may fill on a device; memory that torch holds there unused counts as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = free_host_bytes()
    return int((1 - _LEFT_FREE) * free)


def free_host_bytes() -> int:
    """Return the bytes that this process can take without swapping or being killed; if unknown, sys.maxsize."""
    return min([_available(), *_left_in_groups()])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out; torch has no error class for that on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Whether a GPU has failed so that this process cannot use it again."""
    of_device = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    return of_device and not is_out_of_memory(error)


def release_unused() -> None:
    """Return unused memory to the device and the system."""
    gc.collect()
    torch.cuda.empty_cache()


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), sys.maxsize)


def _left_in_groups() -> Iterator[int]:
    for folder, limit, usage, cached in _GROUPS:
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            used = int((folder / usage).read_text(encoding="ascii"))
            counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if most != "max":
            yield max(0, int(most) - used + int(counts.get(cached, 0)))
