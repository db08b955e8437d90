"""Transfers: copies to a GPU that run while it computes, alternating between two buffers.

Guarantees: at most two groups of tensors are on the device at a time. A group is complete before it is used, and its
buffer is not overwritten before the work enqueued with it is done. Only for CUDA devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor
from merging.errors import OutOfMemory
from merging.residency.memory import is_out_of_memory

_ALIGNMENT = 512


@dataclass
class _Buffer:
    """Device memory for one group, pinned memory for data from files, and the group in it."""

    ready: torch.cuda.Event
    memory: Tensor
    staging: Tensor
    group: dict[StoredTensor, Tensor] = field(default_factory=dict)


class Transfers:
    """Copies groups of tensors to a device, one ahead of the work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers = [self._buffer(), self._buffer()]

    @torch.inference_mode(False)  # so that the copies also work outside of it
    def begin(self, group: Mapping[StoredTensor, Tensor | None]) -> None:
        """Begin to copy a group: each tensor from the pinned memory given with it, or from its file.

        The work with the group before the last must already be enqueued. Raises OutOfMemory if the device has no room
        for the group.
        """
        buffer = self._buffers[0]
        self._buffers.reverse()
        buffer.group.clear()
        from_files = any(kept is None for kept in group.values())
        self._make_room(buffer, sum(map(_aligned, group)), from_files)
        if from_files:
            buffer.ready.synchronize()  # copies from its staging memory may still run
        # Work with the buffer's last group precedes this point in the device's queue, so the host need not wait.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        start = 0
        with torch.cuda.stream(self._stream):
            for stored, kept in group.items():
                part = slice(start, start + stored.nbytes)
                source = self._staged(buffer, part, stored) if kept is None else kept
                target = buffer.memory[part].view(stored.dtype).view(stored.shape)
                buffer.group[stored] = target.copy_(source, non_blocking=True)
                start += _aligned(stored)
            buffer.ready.record(self._stream)

    def take(self, stored: StoredTensor) -> Tensor | None:
        """Return a tensor of the last two groups for work on the current stream, or None."""
        for buffer in self._buffers:
            if stored in buffer.group:
                torch.cuda.current_stream(self._device).wait_event(buffer.ready)
                return buffer.group[stored]
        return None

    def close(self) -> None:
        """Give the buffers' memory back."""
        with contextlib.suppress(torch.AcceleratorError):  # a lost device has nothing to wait for
            torch.cuda.synchronize(self._device)
        self._buffers = [self._buffer(), self._buffer()]

    def _buffer(self) -> _Buffer:
        nothing = torch.empty(0, dtype=torch.uint8)
        return _Buffer(torch.cuda.Event(), nothing, nothing)  # type: ignore[no-untyped-call]

    def _make_room(self, buffer: _Buffer, size: int, from_files: bool) -> None:
        try:
            if size > buffer.memory.numel():
                torch.cuda.synchronize(self._device)  # no work may still use the freed memory
                buffer.memory = torch.empty(0, dtype=torch.uint8)
                buffer.memory = torch.empty(size, dtype=torch.uint8, device=self._device)
            if from_files and size > buffer.staging.numel():
                buffer.ready.synchronize()  # no copy may still read the freed memory
                buffer.staging = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{self._device} has no room for the {size / 1e9:.2f} GB of one tensor of every parent "
                f"({type(error).__name__}); choose another device (device: cpu) or fewer parents"
            ) from None

    def _staged(self, buffer: _Buffer, part: slice, stored: StoredTensor) -> Tensor:
        memory = buffer.staging[part].view(stored.dtype).view(stored.shape)
        stored.read_into(memory)
        return memory


def _aligned(stored: StoredTensor) -> int:
    return -(-stored.nbytes // _ALIGNMENT) * _ALIGNMENT
