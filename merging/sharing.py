"""Sharing: tensors of the live model that are made in the same way share memory.

A stack that repeats a layer holds its weights once. Each layer of the model is still a module of its own, with its own
place in the key-value cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from merging.planning.plan import Step
from merging.residency.placement import Placement


def owners(steps: Sequence[Step], placement: Placement) -> dict[str, str]:
    """Return for each output tensor the first one on its device with the same sources, method and parameters."""
    first: dict[tuple[torch.device, Step], str] = {}
    return {
        step.name: first.setdefault((placement.device_of(step.name), replace(step, name="")), step.name)
        for step in steps
    }


def share(tensors: Mapping[str, Tensor], wanted: Mapping[str, str], present: dict[str, str]) -> None:
    """Give each tensor the memory of its owner; a tensor that becomes its own owner gets new memory.

    Args:
        tensors: the parameters of the live model, by name; the contents of new memory are undefined.
        wanted: the owner of each tensor; owners come before the tensors that they own.
        present: the current owner of each tensor's memory, which is updated; a missing tensor owns its memory.
    """
    for name, owner in wanted.items():
        if present.get(name, name) != owner:
            own = tensors[name]
            own.data = torch.empty_like(own) if name == owner else tensors[owner].data
            present[name] = owner
