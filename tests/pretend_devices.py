"""Accelerators that this machine does not have: tensors that say that they are on one, and compute on the CPU.

Guarantees: an operation that mixes devices fails, as on GPUs. Copies between the host and a device are counted, and so
are operations that make the host wait for a device, and operations that a device runs ("launches").

Does not guarantee that kernels of a GPU exist, nor their bits. The devices are called ``meta:1``, ``meta:2``, ...: no
other kind can be used in a torch that was built for CPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Operations whose result the host needs.
_WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}
# Operations that may take tensors of several devices.
_COPIES = {"_to_copy", "to", "copy_"}


class PretendTensor(Tensor):
    """A tensor on a pretended device; `own` holds its numbers, on the CPU."""

    own: Tensor
    mode: PretendedDevices

    @staticmethod
    def __new__(cls, own: Tensor, device: torch.device, mode: PretendedDevices) -> PretendTensor:
        """Wrap a tensor of the CPU."""
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, own.shape, own.stride(), own.storage_offset(), dtype=own.dtype, device=device
        )
        made.own, made.mode = own, mode
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Fail: only the mode knows what to do."""
        raise RuntimeError(f"{function} outside of the pretence")

    def tolist(self) -> Any:
        """Return the numbers, for which the host waits."""
        self.mode.counts["waits"] += 1
        return self.own.tolist()


class PretendedDevices(TorchDispatchMode):
    """While it is entered, ``meta:N`` are devices.

    Attributes:
        counts: "to device", "between devices", "waits" and "launches" so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the CPU, and say that the result is on the device."""
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        owners = {id(each.own): each for each in tensors if isinstance(each, PretendTensor)}
        device = self._device(name, leaves, tensors)
        own_args, own_kwargs = tree_map(_own, (args, kwargs))
        result = function(*own_args, **own_kwargs)
        if name in ("_to_copy", "to") and tensors[0].device != device:
            result = result.clone()  # the CPU copies nothing
        inputs = {
            each.untyped_storage().data_ptr()
            for each in tree_leaves((own_args, own_kwargs))
            if isinstance(each, Tensor)
        }

        def wrapped(each: Any) -> Any:
            if not isinstance(each, Tensor) or device.type == "cpu":
                return each
            return owners[id(each)] if id(each) in owners else PretendTensor(each, device, self)

        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if device.type != "cpu" and (
            function._schema.is_mutable or any(each.untyped_storage().data_ptr() not in inputs for each in made)
        ):
            self.counts["launches"] += 1
        return tree_map(wrapped, result)

    def _device(self, name: str, leaves: list[Any], tensors: list[Tensor]) -> torch.device:
        """Return the device of the result, and count what moves."""
        found = {each.device for each in tensors if isinstance(each, PretendTensor)}
        host = [each for each in tensors if each.device.type == "cpu" and each.dim()]
        asked = next((torch.device(leaf) for leaf in leaves if isinstance(leaf, torch.device)), None)
        if any(each.device.type == "meta" and not isinstance(each, PretendTensor) for each in tensors):
            raise RuntimeError(f"{name}: a tensor without numbers")
        if name in _COPIES:
            source = tensors[-1].device
            target = tensors[0].device if name == "copy_" else asked or source
            if source != target:
                kind = "to device" if source.type == "cpu" else "waits" if target.type == "cpu" else "between devices"
                self.counts[kind] += 1
            return target
        if found and name in _WAITS:
            self.counts["waits"] += 1
            return (
                next(iter(found))
                if name not in ("_local_scalar_dense", "item", "is_nonzero", "equal")
                else torch.device("cpu")
            )
        if len(found) > 1 or (found and host):
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, {each.device for each in tensors}))}")
        return asked or next(iter(found), torch.device("cpu"))


@contextmanager
def pretended_devices() -> Iterator[PretendedDevices]:
    """Pretend that there are devices."""
    mode = PretendedDevices()
    tensor = torch.tensor

    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        """Make a tensor on the host and send it, as torch.tensor does."""
        return tensor(data, **options) if device is None else tensor(data, **options).to(device)

    with mode, patch("torch.tensor", made):
        yield mode


def moved(module: nn.Module, device: torch.device, mode: PretendedDevices) -> None:
    """Move a module's weights to a pretended device."""
    for each in module.modules():
        for tensors in (each._parameters, each._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and not isinstance(tensor, PretendTensor):
                    tensors[name] = PretendTensor(tensor.data, device, mode)  # type: ignore[assignment]


def _own(leaf: Any) -> Any:
    if isinstance(leaf, PretendTensor):
        return leaf.own
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
