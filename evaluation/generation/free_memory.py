"""How much memory is free for the keys and values of a batch, and what running out of it looks like."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

# What a pass needs beside the slots (logits, activations), and what others on the machine may take meanwhile.
_LEFT_FREE = 0.4
# Of the host, of a device, and of the libraries that compute on it.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def free_bytes(device: torch.device) -> int:
    """Return the memory that a batch may fill on a device; what torch holds there unused counts as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((1 - _LEFT_FREE) * (free + cached))
    return int((1 - _LEFT_FREE) * _available())


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: torch has no class of its own for that on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Whether a GPU has failed in a way after which this process cannot use it again."""
    of_device = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    return of_device and not is_out_of_memory(error)


def free_memory() -> None:
    """Give back what nobody uses."""
    gc.collect()
    torch.cuda.empty_cache()


def _available() -> int:
    """Return what Linux thinks can be had without swapping, also within a container's limit."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return max(free, 0)
