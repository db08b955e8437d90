"""Placement: the device of each module of the live model, and of the parents' tensors that it is made of.

Guarantees: every tensor has one device, which exists. A map that omits a module, or moves weights while the model
computes, is refused before anything is read. Only this file imports accelerate, for models spread over devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from merging.errors import PlacementError, first_line, suggest

DeviceMap: TypeAlias = Literal["auto"] | Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of a model's modules, by their names; ``""`` stands for all others."""

    modules: Mapping[str, torch.device]

    @classmethod
    def of(cls, device_map: DeviceMap, model: Any, dtype: torch.dtype) -> Placement:
        """Read a device map as accelerate takes it.

        Args:
            device_map: ``auto`` spreads the model evenly over the GPUs; else a device for each module by its name.
            model: the model, on the meta device.
            dtype: the dtype of its weights.

        Raises:
            PlacementError: a device does not exist, a module is unknown or has no device, or the devices are of several
                kinds.
        """
        given = _auto(model, dtype) if device_map == "auto" else device_map
        placement = cls({module: _device(module, device) for module, device in given.items()})
        modules = dict(model.named_modules())
        for module in placement.modules:
            if module not in modules:
                raise PlacementError(f"device_map: the model has no module {module!r}{suggest(module, modules)}")
        for name in model.state_dict():
            placement.device_of(name)
        kinds = {device.type for device in placement.devices}
        if len(kinds) > 1:
            raise PlacementError(
                f"device_map: names devices of several kinds ({', '.join(sorted(kinds))}); put all weights on "
                "GPUs, or all on the cpu, so that they stay where the model computes"
            )
        return placement

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices, each once, in the map's order."""
        return tuple(dict.fromkeys(self.modules.values()))

    @property
    def is_spread(self) -> bool:
        """Whether the model is in more than one memory; all CPUs share one."""
        return len({str(device) if device.type != "cpu" else "cpu" for device in self.devices}) > 1

    def device_of(self, name: str) -> torch.device:
        """Return the device of a module or tensor. Raises PlacementError if it has none."""
        if len(self.modules) == 1 and "" in self.modules:
            return self.modules[""]
        part = name
        while part and part not in self.modules:
            part = part.rpartition(".")[0]
        if part not in self.modules:
            raise PlacementError(f"device_map: has no device for {name}; name its module, or '' for all others")
        return self.modules[part]

    def named(self, names: Mapping[str, str]) -> Placement:
        """Return this placement extended by the merge's names for tensors, which may differ from the live model's."""
        return Placement({**self.modules, **{other: self.device_of(name) for name, other in names.items()}})

    def dispatch(self, model: Any) -> None:
        """Move a model's modules to their devices; from then on inputs and activations follow them."""
        if not self.is_spread:
            model.to(self.devices[0])
            return
        from accelerate import dispatch_model

        modules = dict(model.named_modules())
        explicit = {name: device for name, device in self.modules.items() if name and name in modules}
        for name in model.state_dict():
            if not any(name.startswith(f"{module}.") for module in explicit):
                explicit[name.rpartition(".")[0]] = self.device_of(name)
        dispatch_model(model, explicit)


def _auto(model: Any, dtype: torch.dtype) -> Mapping[str, str | int]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())
    # The parents follow the model's placement, so balance matters most.
    room = get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole)
    found = infer_auto_device_map(model, room, no_split_module_classes=whole, dtype=dtype)
    devices = set(found.values())
    if "disk" in devices or ("cpu" in devices and len(devices) > 1):
        raise PlacementError("device_map: auto: the model does not fit on the available GPUs; free memory, or add GPUs")
    return dict(found)


def _device(module: str, name: str | int) -> torch.device:
    where = f"device_map: {module or 'all others'}"
    if name in ("disk", "meta"):
        raise PlacementError(f"{where}: weights on {name!r} cannot be merged into; give a GPU (0, cuda:1) or cpu")
    try:
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
        found = torch.empty(0, device=device).device  # "cuda" is "cuda:0" to a tensor
        return device if device.type == "cpu" else found
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        count = torch.cuda.device_count()
        here = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
        reason = first_line(error).partition(". ")[0]  # torch then lists every device that it knows
        raise PlacementError(f"{where}: there is no device {name!r} ({reason}); available: {here}") from None


def by_device(names: Iterable[str], placement: Placement) -> dict[torch.device, list[int]]:
    """Return for each device the indices of its tensors, in order."""
    found: dict[torch.device, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(placement.device_of(name), []).append(index)
    return found
