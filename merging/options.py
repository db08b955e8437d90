"""Options: how to open models, and how and where to merge them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from merging.residency.budget import Budget
    from merging.residency.placement import DeviceMap


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What may be done to open a model.

    Attributes:
        lazy_unpickle: whether torch pickles may be read if a model has no safetensors.
        trust_remote_code: whether Python code that comes with a model may be executed.
        allow_crimes: whether models of different architectures may be merged if their tensors fit.
    """

    lazy_unpickle: bool = False
    trust_remote_code: bool = False
    allow_crimes: bool = False


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How and where models are merged.

    Attributes:
        device: the device, as torch names it.
        device_map: spreads the live model over several devices instead: ``auto``, or a device for each module by name,
            as accelerate takes it. Each tensor is merged on its device, and parents are kept there.
        memory_budget: the bytes to keep the parents in, as a total or as a budget for device and host; what does not
            fit is read again for every candidate. By default there is no limit: first the device is filled, then the
            host. Free memory is not checked, so give a budget if the parents do not fit into the host's memory.
        random_seed: the seed of methods that draw random numbers.
        compile: whether to merge with compiled kernels; None to use them if they save time.
        statistics: a folder with statistics of the parents; written only after a call of
            `ParentSet.statistics.write`.
        load: what may be done to open the parents.
    """

    device: str = "cpu"
    device_map: DeviceMap | None = None
    memory_budget: int | Budget | None = None
    random_seed: int = 0
    compile: bool | None = None
    statistics: Path | None = None
    load: LoadOptions = field(default_factory=LoadOptions)


LOAD = LoadOptions()
MERGE = MergeOptions()
