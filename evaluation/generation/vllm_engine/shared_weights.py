"""Weights in memory that two processes share.

On a CPU they are copied into an anonymous file that both processes map: it needs no /dev/shm (64 MB in a container by
default) and disappears with the processes. On a GPU nothing is copied: the other process maps the live model's own
memory (CUDA IPC).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

_ALIGNMENT = 64
# Where `reduce_tensor` (torch 2.13) puts the device's index: the other process sees only that device.
_DEVICE_INDEX = 6


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """Where a tensor is.

    Attributes:
        name: of the tensor.
        dtype: as torch names it.
        shape: of the tensor.
        offset: of its first byte in the shared file; unused on a GPU.
        handle: opens a GPU's memory; None on a CPU.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    handle: tuple[Any, ...] | None


class SharedWeights:
    """The side that writes.

    Args:
        tensors: of the live model, by name; `put` accepts others of the same names, shapes and dtypes.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._offsets: dict[str, int] = {}
        end = 0
        for name, tensor in tensors.items():
            self._offsets[name] = end
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.file = os.memfd_create("merge-search weights")
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors.values())
        os.ftruncate(self.file, end if on_cpu else 0)
        self._memory = _mapped(self.file) if on_cpu and end else torch.empty(0, dtype=torch.uint8)

    def put(self, tensors: Mapping[str, Tensor]) -> Sequence[SharedTensor]:
        """Put tensors where the other process sees them, and return the places."""
        return [self._put(name, tensor.detach()) for name, tensor in tensors.items()]

    def close(self) -> None:
        """Release the memory."""
        os.close(self.file)
        self._memory = torch.empty(0, dtype=torch.uint8)

    def _put(self, name: str, tensor: Tensor) -> SharedTensor:
        offset, dtype, shape = self._offsets[name], str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if tensor.device.type == "cpu":
            place = self._memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(shape)
            place.copy_(tensor)
            return SharedTensor(name, dtype, shape, offset, None)
        _, handle = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
        return SharedTensor(name, dtype, shape, offset, handle)


class SeenWeights:
    """The side that reads.

    Args:
        file: the descriptor of the shared file.
    """

    def __init__(self, file: int) -> None:
        self._memory = _mapped(file) if os.fstat(file).st_size else torch.empty(0, dtype=torch.uint8)

    def tensors(self, shared: Sequence[SharedTensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor's name and its current values."""
        for tensor in shared:
            yield tensor.name, self._tensor(tensor)

    def _tensor(self, shared: SharedTensor) -> Tensor:
        if shared.handle is not None:
            arguments = list(shared.handle)
            arguments[_DEVICE_INDEX] = 0
            opened: Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
            return opened
        dtype: torch.dtype = getattr(torch, shared.dtype)
        end = shared.offset + torch.Size(shared.shape).numel() * dtype.itemsize
        return self._memory[shared.offset : end].view(dtype).view(shared.shape)


def _mapped(file: int) -> Tensor:
    """Return the bytes of a file as a tensor that keeps the mapping open."""
    return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)
