"""Devices: the default one, whether a named one is available, and the cards that a worker uses.

Guarantees: a device that merge-search does not support is refused in one line that says why and what to give instead.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import PlacementError
from search.counts import counted
from search.errors import SearchError
from search.study.store import Workplace

if TYPE_CHECKING:
    import torch

    from evaluation import BackendName
    from search.space.sections import MergingSection

_REFUSED: Mapping[str, str] = {
    "mps": "merges sum in float64, which Apple's GPUs lack",
    "xpu": "merge-search cannot tell how much of its memory is free",
}
# The packages whose versions a search records.
_SOFTWARE = ("merge-search", "torch", "transformers", "optuna", "vllm")
_UNTRIED = "merge-search works on NVIDIA's and AMD's GPUs (cuda), and on the CPU"


def choose_device(name: str, where: str = "--device", backend: BackendName = "transformers") -> str:
    """Return a device as torch names it; ``auto`` is the GPU if there is one that merge-search works on.

    Args:
        name: the device, or ``auto``.
        where: the option, or the file and the key, that names it.
        backend: the generation backend.

    Raises:
        SearchError: this machine has no such device, or merge-search or the backend does not support it.
    """
    import torch

    if name == "auto":
        name, where = ("cuda" if torch.cuda.is_available() else "cpu"), f"{where}: auto"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    here = [f"{accelerator.type}:{index}" for index in range(count) if accelerator]
    known = ", ".join(["cpu", *(each for each in here if each.startswith("cuda"))])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SearchError(f"{where}: {name!r} is not a device; give auto or one of {known}") from None
    if f"{device.type}:{device.index or 0}" not in [*here, "cpu:0"]:
        raise SearchError(f"{where}: this machine has no {name}; give auto or one of {known}")
    if device.type not in ("cuda", "cpu"):
        raise SearchError(f"{where}: {name}: {_REFUSED.get(device.type, _UNTRIED)}; give auto or one of {known}")
    if device.type == "cuda" and torch.version.hip and backend == "vllm":
        raise SearchError(
            f"{where}: {name}: vllm as merge-search installs it is built for CUDA, and this card is AMD's (ROCm); take "
            "the transformers backend"
        )
    return name


def with_device(section: MergingSection, device: str | None, backend: BackendName, source: str) -> MergingSection:
    """Return a config's section with the device of ``--device``, if that is given.

    Raises:
        SearchError: the device cannot be used, or the section spreads the model; `source` is the config's file.
    """
    if device is None:
        return section
    if section.device_map is not None:
        raise SearchError(
            f"--device {device}: {source}: merging.device_map also says where to merge; leave out one of the two"
        )
    return section.model_copy(update={"device": choose_device(device, backend=backend)})


@contextlib.contextmanager
def device_map_of(source: str) -> Iterator[None]:
    """Raise SearchError, with the config's file and the key, if a device map cannot be applied."""
    try:
        yield
    except PlacementError as error:
        raise SearchError(f"{source}: merging.{error}") from None


def workplace(devices: Iterable[torch.device]) -> Workplace:
    """Return the workplace of a worker that merges and evaluates on some devices."""
    devices = list(devices)
    identities = {str(device): _identity(device) for device in devices}
    return Workplace(platform.node(), identities, _hardware(devices), _software())


def _hardware(devices: Iterable[torch.device]) -> str:
    """Return the processor and the cards in words: ``AMD EPYC 9654, 16 cores; NVIDIA H200``."""
    import torch

    cards = [torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"]
    return "; ".join([f"{_processor()}, {counted(os.cpu_count() or 1, 'core')}", *cards])


def _processor() -> str:
    """Return the processor's model name, or else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    names = (
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == "model name"
    )
    return next(names, platform.machine())


def _software() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that do the work, by name."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cards_here() -> Mapping[str, str]:
    """Return the identities of this machine's cards, by the names that torch gives them."""
    import torch

    return {name: _identity(torch.device(name)) for name in map("cuda:{}".format, range(torch.cuda.device_count()))}


def _identity(device: torch.device) -> str:
    """Return a card's UUID, because its number depends on CUDA_VISIBLE_DEVICES; "" for the CPU."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
