"""What a candidate asks of a device: launches, copies, and times that the host waits, counted without a device.

The meta device takes the device's part: it is another device than the host, computes nothing, and whoever reads a
number from it, or copies from it to the host, gets an error. So a merge that comes to its end has not waited but where
`tolist` is called, which is counted here. What depends only on the parents is counted on the CPU first, as the first
candidate does on a device. A compiled function counts as one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from merging import MergeOptions, Merger, ParentSet, Recipe
from merging.kernels import Kernels
from merging.kernels.compiled import CompiledKernels
from merging.residency.budget import Budget
from merging.residency.residency import Residency
from merging.statistics.statistics import Statistics

DEVICE = torch.device("meta")
# They read memory that was written before, or none at all.
_VIEWS = ("view", "slice", "select", "as_strided", "detach", "alias", "split", "unbind", "reshape", "transpose", "t")
_FREE = {*_VIEWS, "empty", "new_empty", "empty_like", "empty_strided", "set_", "resize_", "lift_fresh"}


@dataclass
class Counts(TorchDispatchMode):
    """What was asked of the device."""

    launches: int = 0
    copies: int = 0
    copied_bytes: int = 0
    waits: int = 0
    names: list[str] = field(default_factory=list)
    live: int = 0
    most: int = 0  # bytes of the device that were taken at a time, besides what was there
    known: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation that has to do with the device."""
        found = function(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        before = {each.untyped_storage()._cdata for each in given}
        for tensor in made:
            if tensor.untyped_storage()._cdata not in before:
                self._watch(tensor)
        devices = {each.device for each in (*given, *made)}
        name = function.overloadpacket.__name__
        is_no_work = any(one is each for one in made for each in given) and not name.endswith("_")
        if DEVICE in devices and name not in _FREE and not is_no_work:
            if len(devices) > 1 and name in ("to", "_to_copy", "copy_"):
                self.copies += 1
                self.copied_bytes += made[0].nbytes
            else:
                self.launches += 1
                self.names.append(name)
        return found

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device != DEVICE or storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, which: int, size: int) -> None:
        self.known.discard(which)
        self.live -= size


class Queue:
    """The copies of the device, made at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def device_memory(self, size: int) -> Tensor:
        self.sizes.append(size)
        return torch.empty(size, dtype=torch.uint8, device=DEVICE)

    def pinned_memory(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def follow_work(self) -> None:
        """Nothing runs later."""

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        for target, source in pairs:
            target.copy_(source)

    def mark(self) -> int:
        return 0

    def require(self, mark: int) -> None:
        """Nothing runs later."""

    def wait(self, mark: int) -> None:
        """Nothing runs later."""

    def wait_for_all(self) -> None:
        """Nothing runs later."""


def counted_candidates(
    recipes: list[Recipe], budget: Budget, kernels: Kernels | None = None, statistics: torch.device = DEVICE
) -> list[Counts]:
    """Merge candidates of one space on the device; return what each has asked of it.

    Args:
        recipes: the candidates; the first is not counted.
        budget: of the parents on the device and on the host.
        kernels: how to compute; by default as on a GPU.
        statistics: where they lie.
    """
    with (
        ParentSet.open(recipes, MergeOptions("cpu")) as here,
        ParentSet.open(recipes, MergeOptions(str(DEVICE), memory_budget=budget)) as parents,
    ):
        parents._residencies = {DEVICE: Residency(DEVICE, budget, Queue())}
        parents.load()
        counts: list[Counts] = []
        on_cpu = Merger(here, random_seed=1, kernels=CompiledKernels(partial))
        merger = Merger(parents, random_seed=1, kernels=kernels or CompiledKernels(_as_one_launch))
        with patch.object(Tensor, "pin_memory", lambda tensor: tensor):
            for recipe in recipes:
                on_cpu.apply(recipe)
                _take_over(here.statistics, parents.statistics, statistics)
                counts.append(Counts())
                with _counted_waits(counts[-1]), counts[-1]:
                    merger.apply(recipe)
        return counts[1:]


def _take_over(here: Statistics, there: Statistics, place: torch.device) -> None:
    """Let a device have the statistics that were computed on the CPU."""
    cpu = torch.device("cpu")

    def moved(value: Any) -> Any:
        return value.to(place) if isinstance(value, Tensor) and value.numel() > 1 else value

    for key, (numbers, value) in here._memo.items():
        if isinstance(key, tuple):
            key = tuple(DEVICE if part == cpu else part for part in key)
        there._memo.setdefault(key, (numbers, moved(value)))


@contextmanager
def _counted_waits(counts: Counts) -> Iterator[None]:
    original = Tensor.tolist

    def tolist(tensor: Tensor) -> Any:
        if tensor.device != DEVICE:
            return original(tensor)
        counts.waits += 1
        return torch.ones(tensor.shape).tolist()

    with patch.object(Tensor, "tolist", tolist):
        yield


def _as_one_launch(function: Callable[..., Any], form: object) -> Callable[..., Any]:
    """Return what counts as one launch, and sees to it that the function runs only on tensors of the device."""

    def launch(*args: Any) -> Any:
        given = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        assert all(each.device == DEVICE for each in given)
        with _disable_current_modes() as modes:
            found = function(form, *args)
        for mode in modes:
            if isinstance(mode, Counts):
                mode.launches += 1
                mode.names.append(function.__name__)
        return found

    return launch
