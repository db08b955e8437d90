"""Sends weights to another process through a small shared memory, piece by piece.

On a CPU the memory is an anonymous file that both processes map: it needs no /dev/shm (64 MB in a container by default)
and disappears with the processes. On a GPU it is one allocation that the other process opens only once (CUDA IPC),
since torch makes a new event and wraps the allocation again for each handle.

Guarantees: neither side holds more of a model than this memory and the tensor being read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from evaluation.generation.pass_memory import DeviceKind

SHARED_BYTES: dict[DeviceKind, int] = {"cpu": 128 << 20, "cuda": 512 << 20}
"""The size of the shared memory, by kind of device."""

_ALIGNMENT = 64
# Where `reduce_tensor` (torch 2.13) puts the device's index: the other process sees only that device.
_DEVICE_INDEX = 6


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """How the other process finds the memory.

    Attributes:
        file: the descriptor of the shared file, which is empty if the memory is on a GPU.
        handle: the handle that opens a GPU's memory; None on a CPU.
    """

    file: int
    handle: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class WeightPiece:
    """Some bytes of a tensor; the pieces of a tensor follow each other.

    Attributes:
        name: the tensor's name.
        dtype: its dtype, as torch names it.
        shape: its shape.
        place: the offset of the first byte in the shared memory.
        start: the offset of the first byte in the tensor.
        count: the number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: int
    start: int
    count: int


class WeightWriter:
    """The writing side.

    Args:
        device: the device that the tensors are on.
        half_bytes: the size of each half of the memory; one half is read while the other is written.
    """

    def __init__(self, device: torch.device, half_bytes: int | None = None) -> None:
        kind: DeviceKind = "cpu" if device.type == "cpu" else "cuda"
        half = half_bytes or SHARED_BYTES[kind] // 2
        self._half = -(-half // _ALIGNMENT) * _ALIGNMENT
        self._device = device
        file = os.memfd_create("merge-search weights")
        handle = None
        if kind == "cpu":
            os.ftruncate(file, 2 * self._half)
            self._memory = _mapped(file)
        else:
            self._memory = torch.empty(2 * self._half, dtype=torch.uint8, device=device)
            _, handle = reduce_tensor(self._memory)  # type: ignore[no-untyped-call]
        self.shared = SharedMemory(file, handle)

    def chunks(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Sequence[WeightPiece]]:
        """Write tensors into the two halves by turns; yield the pieces of each half when it is full.

        Before taking the next item, the caller must wait until the previous half has been read.
        """
        half, used, pieces = 0, 0, list[WeightPiece]()
        for name, tensor in tensors:
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            dtype, shape, start = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), 0
            while start < len(flat) or not start:
                count = min(len(flat) - start, self._half - used)
                place = half * self._half + used
                self._memory[place : place + count].copy_(flat[start : start + count])
                pieces.append(WeightPiece(name, dtype, shape, place, start, count))
                used, start = used + -(-count // _ALIGNMENT) * _ALIGNMENT, start + count
                if used >= self._half:
                    yield self._written(pieces)
                    half, used, pieces = 1 - half, 0, []
                if not len(flat):
                    break
        if pieces:
            yield self._written(pieces)

    def close(self) -> None:
        """Release the memory."""
        os.close(self.shared.file)
        self._memory = torch.empty(0, dtype=torch.uint8)

    def _written(self, pieces: Sequence[WeightPiece]) -> Sequence[WeightPiece]:
        _wait_for(self._device)
        return pieces


class WeightReader:
    """The reading side.

    Args:
        memory: the writing side's memory.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = _mapped(memory.file) if memory.handle is None else _opened(memory.handle)

    def tensors(
        self, chunks: Iterable[Sequence[WeightPiece]], taken: Callable[[], None]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor's name and a copy of it.

        Args:
            chunks: the pieces in the order in which they were written.
            taken: called when all pieces of a chunk are read.
        """
        flat = self._memory[:0]
        for pieces in chunks:
            for piece in pieces:
                dtype: torch.dtype = getattr(torch, piece.dtype)
                size = torch.Size(piece.shape).numel() * dtype.itemsize
                if not piece.start:
                    flat = torch.empty(size, dtype=torch.uint8, device=self._memory.device)
                end = piece.start + piece.count
                flat[piece.start : end] = self._memory[piece.place : piece.place + piece.count]
                if end == size:
                    yield piece.name, flat.view(dtype).view(piece.shape)
            _wait_for(self._memory.device)
            taken()


def _wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work, because the other process cannot wait for it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _mapped(file: int) -> Tensor:
    """Return the bytes of a file as a tensor that keeps the mapping open."""
    return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)


def _opened(handle: tuple[Any, ...]) -> Tensor:
    arguments = list(handle)
    arguments[_DEVICE_INDEX] = 0
    opened: Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
    return opened
