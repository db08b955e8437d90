"""Copy queues: copies to a GPU that run while it computes. The protocol that transfers need, and CUDA's queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Mark = TypeVar("Mark")


class CopyQueue(Protocol, Generic[Mark]):
    """Copies to one device, in order, while the current stream does other work."""

    def device_memory(self, size: int) -> Tensor:
        """Return uninitialized bytes on the device."""

    def pinned_memory(self, size: int) -> Tensor:
        """Return uninitialized bytes on the host, from which the device can copy without the host."""

    def follow_work(self) -> None:
        """Make later copies begin after the work that the device was given so far."""

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Enqueue copies, given as (target, source)."""

    def mark(self) -> Mark:
        """Return a mark after the copies so far."""

    def require(self, mark: Mark) -> None:
        """Make later work begin after the copies before a mark."""

    def wait(self, mark: Mark) -> None:
        """Make the host wait for the copies before a mark."""

    def wait_for_all(self) -> None:
        """Make the host wait for all work and all copies."""


class CudaCopyQueue:
    """The copy queue of a CUDA device: a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def device_memory(self, size: int) -> Tensor:
        """Return bytes on the device."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    @staticmethod
    def pinned_memory(size: int) -> Tensor:
        """Return pinned bytes."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def follow_work(self) -> None:
        """Wait, on the device, for the current stream."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Copy on the stream."""
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def require(self, mark: torch.cuda.Event) -> None:
        """Make the current stream wait for the event."""
        torch.cuda.current_stream(self._device).wait_event(mark)

    def wait(self, mark: torch.cuda.Event) -> None:
        """Wait for the event."""
        mark.synchronize()

    def wait_for_all(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._device)
