"""The queue of copies of a GPU, which run while it computes: what transfers need of a device, and CUDA's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Mark = TypeVar("Mark")


class CopyQueue(Protocol, Generic[Mark]):
    """Copies to one device, in order, beside the work that the current stream does."""

    def device_memory(self, size: int) -> Tensor:
        """Return uninitialized bytes on the device."""

    def pinned_memory(self, size: int) -> Tensor:
        """Return uninitialized bytes on the host, which the device copies from by itself."""

    def follow_work(self) -> None:
        """Let the copies to come begin after the work that was given to the device so far."""

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Enqueue copies, given as (target, source)."""

    def mark(self) -> Mark:
        """Return a mark behind the copies so far."""

    def require(self, mark: Mark) -> None:
        """Let the work to come begin after the copies before a mark."""

    def wait(self, mark: Mark) -> None:
        """Let the host wait for the copies before a mark."""

    def wait_for_all(self) -> None:
        """Let the host wait for all work and all copies."""


class CudaCopyQueue:
    """The copy queue of a CUDA device: a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def device_memory(self, size: int) -> Tensor:
        """Return bytes on the device."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def pinned_memory(self, size: int) -> Tensor:
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
        """Let the current stream wait for the event."""
        torch.cuda.current_stream(self._device).wait_event(mark)

    def wait(self, mark: torch.cuda.Event) -> None:
        """Wait for the event."""
        mark.synchronize()

    def wait_for_all(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._device)
