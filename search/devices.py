"""Devices: where to work if nobody says, and whether what somebody says is here."""

from __future__ import annotations

from search.errors import SearchError


def choose_device(name: str, where: str = "--device") -> str:
    """Return a device as torch names it; ``auto`` is the GPU where there is one.

    Args:
        name: what was asked for.
        where: the option, or the file and the key, that asked.

    Raises:
        SearchError: there is no such device here.
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
        raise SearchError(
            f"{where}: {name!r} is no device; give auto, or one of this machine's: {', '.join(known)}"
        ) from None
    if f"{device.type}:{device.index or 0}" not in [*known, "cpu:0"]:
        raise SearchError(f"{where}: there is no {name} here; give auto, or one of this machine's: {', '.join(known)}")
    return name
