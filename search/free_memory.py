"""Free memory of the host and of each device, as the system reports it.

Guarantees: on Linux the limits of the process's control group and of those around it count. If nothing is known, the
answer is unlimited. Only planned_memory.py asks; a test checks that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from search.memory_demand import UNKNOWN, MachineMemory, Memory

_MEMINFO = Path("/proc/meminfo")
# The process's control groups, one per line: number, controllers and path, separated by colons.
_OWN_GROUPS = Path("/proc/self/cgroup")
# Memory control groups, versions 2 and 1: controller, root, and files with the limit, the usage, and the part of the
# usage that caches files.
_GROUPS = (
    ("", Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def machine_of(devices: Sequence[torch.device], workers: int = 1) -> MachineMemory:
    """Return the memory that this process can take.

    Args:
        devices: the live model's devices; a CPU has no memory of its own beside the host's.
        workers: the number of processes that share this machine, this one included.
    """
    own = tuple(_device(device) for device in devices if device.type == "cuda")
    return MachineMemory(_host(), own, workers)


def _device(device: torch.device) -> Memory:
    free, total = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved but does not use is free, too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Memory(str(torch.empty(0, device=device).device), total, free)


def _host() -> Memory:
    """Return what this process can take without swapping or being killed."""
    found = [(_of_meminfo("MemTotal"), _of_meminfo("MemAvailable")), *_groups()]
    return Memory("host", min(total for total, _ in found), min(free for _, free in found))


def _of_meminfo(key: str) -> int:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return UNKNOWN
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), UNKNOWN)


def _groups() -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group and what is left of it, in bytes."""
    own = _own_groups()
    for controller, root, limit, usage, cached in _GROUPS:
        inner = root / own.get(controller, "")
        # In a container the path may be the host's, and its root is the process's own group.
        for folder in dict.fromkeys([inner, *inner.parents, root]):
            if folder.is_relative_to(root):
                yield from _group(folder, limit, usage, cached)


def _own_groups() -> Mapping[str, str]:
    """Return the path of the process's group below the root, by controller; version 2 has one for all, under ""."""
    try:
        lines = [line.split(":", 2) for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {controller: path.lstrip("/") for _, names, path in lines for controller in names.split(",")}


def _group(folder: Path, limit: str, usage: str, cached: str) -> Iterator[tuple[int, int]]:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return
    if most != "max":
        yield int(most), max(0, int(most) - used + int(stat.get(cached, 0)))
