"""Transfers: copies to a GPU that run while it computes, alternating between two buffers.

Guarantees: at most two groups of tensors are on the device at a time, each of a chunk at most. A group is complete
before it is used, and its buffer is not overwritten before the work enqueued with it is done. A group without room is
not copied, which is not an error.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor
from merging.residency.copy_queue import CopyQueue
from merging.residency.memory_errors import is_out_of_memory
from merging.residency.streaming import CHUNK, aligned, group_bytes

_LOG = logging.getLogger("merging.residency")

Mark = TypeVar("Mark")


@dataclass
class _Buffer(Generic[Mark]):
    """Device memory for one group, pinned memory for data from files, the group in it, and the end of its copies."""

    memory: Tensor
    staging: Tensor
    group: dict[StoredTensor, Tensor] = field(default_factory=dict)
    ready: Mark | None = None


class Transfers(Generic[Mark]):
    """Copies groups of tensors to a device, one ahead of the work.

    Args:
        queue: the queue of the device's copies.
        chunk: the bytes that a group may take.

    Attributes:
        most: the bytes that a group may take now: fewer if memory had no room.
    """

    def __init__(self, queue: CopyQueue[Mark], chunk: int = CHUNK) -> None:
        self._queue = queue
        self.most = chunk
        self._buffers = [self._buffer(), self._buffer()]

    def reserve(self, size: int, from_files: bool) -> None:
        """Take the memory for groups of this size, if there is room for them."""
        for buffer in self._buffers:
            self._has_room(buffer, size, from_files)

    @torch.inference_mode(False)  # so that the copies also work outside of it
    def begin(self, group: Mapping[StoredTensor, Tensor | None]) -> None:
        """Begin to copy a group, if it has room: each tensor from the pinned memory given with it, or from its file.

        The work with the group before the last must already be enqueued.
        """
        buffer = self._buffers[0]
        from_files = any(kept is None for kept in group.values())
        if not group or not self._has_room(buffer, group_bytes(stored.nbytes for stored in group), from_files):
            return
        self._buffers.reverse()
        if from_files and buffer.ready is not None:
            self._queue.wait(buffer.ready)  # copies from its staging memory may still run
        # Work with the buffer's last group precedes this point in the device's queue, so the host need not wait.
        self._queue.follow_work()
        buffer.group.clear()
        copied: dict[StoredTensor, Tensor] = {}
        self._queue.copy(self._pairs(buffer, group, copied))
        buffer.group, buffer.ready = copied, self._queue.mark()

    def take(self, stored: StoredTensor) -> Tensor | None:
        """Return a tensor of the last two groups for work on the current stream, or None."""
        for buffer in self._buffers:
            if stored in buffer.group:
                assert buffer.ready is not None
                self._queue.require(buffer.ready)
                return buffer.group[stored]
        return None

    def close(self) -> None:
        """Give the buffers' memory back."""
        with contextlib.suppress(torch.AcceleratorError):  # a lost device has nothing to wait for
            self._queue.wait_for_all()
        self._buffers = [self._buffer(), self._buffer()]

    def _buffer(self) -> _Buffer[Mark]:
        nothing = torch.empty(0, dtype=torch.uint8)
        return _Buffer(nothing, nothing)

    def _has_room(self, buffer: _Buffer[Mark], size: int, from_files: bool) -> bool:
        """Grow a buffer to a size, if it is allowed and memory has room; if memory has none, halve what is allowed."""
        if size > self.most:
            return False
        grows, stages = size > buffer.memory.numel(), from_files and size > buffer.staging.numel()
        if not (grows or stages):
            return True
        self._queue.wait_for_all()  # no work and no copy may still use the freed memory
        try:
            if grows:
                buffer.group.clear()
                buffer.memory = torch.empty(0, dtype=torch.uint8)
                buffer.memory = self._queue.device_memory(size)
            if stages:
                buffer.staging = torch.empty(0, dtype=torch.uint8)
                buffer.staging = self._queue.pinned_memory(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.most = size // 2
            _LOG.warning("no room to copy %.2f GB of parents together; they are merged piece by piece", size / 1e9)
            return False
        return True

    def _pairs(
        self, buffer: _Buffer[Mark], group: Mapping[StoredTensor, Tensor | None], copied: dict[StoredTensor, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what is copied, target and source; a file is read while the tensor before it is on its way."""
        start = 0
        for stored, kept in group.items():
            part = slice(start, start + stored.nbytes)
            copied[stored] = buffer.memory[part].view(stored.dtype).view(stored.shape)
            yield copied[stored], self._staged(buffer, part, stored) if kept is None else kept
            start += aligned(stored.nbytes)

    def _staged(self, buffer: _Buffer[Mark], part: slice, stored: StoredTensor) -> Tensor:
        memory = buffer.staging[part].view(stored.dtype).view(stored.shape)
        stored.read_into(memory)
        return memory
