"""Devices: the default one, and whether a named one is available."""

from __future__ import annotations

from search.errors import SearchError


def choose_device(name: str, where: str = "--device") -> str:
    """Return a device as torch names it; ``auto`` is the GPU if there is one.

    Args:
        name: the device, or ``auto``.
        where: the option, or the file and the key, that names it.

    Raises:
        SearchError: this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    known = ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)]
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SearchError(f"{where}: {name!r} is not a device; give auto or one of {', '.join(known)}") from None
    if f"{device.type}:{device.index or 0}" not in [*known, "cpu:0"]:
        raise SearchError(f"{where}: this machine has no {name}; give auto or one of {', '.join(known)}")
    return name
