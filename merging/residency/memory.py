"""Memory: how much is free, on the host and on a device.

Guarantees: on Linux the control group's limit counts. Where nothing is known, the answer is unlimited.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from merging.residency.streaming import CHUNK

# Messages of the host, of a device, and of the libraries that compute on it.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
_UNKNOWN = sys.maxsize
# Share of the free memory: evaluation needs room of its own, and swapping is no faster than reading a file.
_HOST_RESERVE = 0.1
# Share of the whole card: key-value cache, activations, intermediate blocks.
_DEVICE_RESERVE = 0.15
# Files of a memory control group, versions 2 and 1: limit, usage, and the part of the usage that caches files.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that parents and their statistics may take: of the device's memory, and of the host's.

    Attributes:
        device: of the device's memory; 0 where that is the host's.
        host: of the host's memory.
        chunk: of the parents that do not fit, the bytes that are copied to the device together (see streaming.py).
    """

    device: int
    host: int
    chunk: int = CHUNK

    @classmethod
    def of(cls, device: torch.device, live_model_bytes: int, limit: int | None = None, part: float = 1.0) -> Budget:
        """Return the budget for a device.

        Args:
            device: the device that merges.
            live_model_bytes: the bytes that the live model will take there.
            limit: the bytes that parents may take in all; by default the free memory, less what a search itself needs.
            part: this device's share of the limit and of the host's memory, among several devices.
        """
        on_device = 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            on_device = max(0, free - live_model_bytes - int(_DEVICE_RESERVE * total))
        if limit is not None:
            own_limit = int(limit * part)
            on_device = min(on_device, own_limit)
            return cls(on_device, own_limit - on_device)
        own = live_model_bytes if device.type == "cpu" else 0
        return cls(on_device, max(0, int(free_host_bytes() * (1 - _HOST_RESERVE) * part) - own))


def free_host_bytes() -> int:
    """Return the memory that a process can still take without swapping or being killed, in bytes."""
    return min([_available(), *_left_in_groups()])


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _UNKNOWN
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), _UNKNOWN)


def _left_in_groups() -> Iterator[int]:
    for folder, limit, usage, cached in _GROUPS:
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            used = int((folder / usage).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if most != "max":
            yield max(0, int(most) - used + int(stat.get(cached, 0)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: on a CPU, torch has no error class for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
