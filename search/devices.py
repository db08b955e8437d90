"""Devices: where to work if nobody says."""

from __future__ import annotations


def choose_device(name: str) -> str:
    """Return a device as torch names it; ``auto`` is the GPU where there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
