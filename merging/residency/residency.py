"""Residency: the memory that keeps each of the parents' tensors between candidates.

A tensor lives in the best place that has room: the device's memory; else the host's, pinned so that a GPU copies from
it at full speed while it computes; else only its file, which is mapped whenever the tensor is merged. The place never
changes the bits of a merge.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor
from merging.residency.memory import Budget, is_out_of_memory
from merging.residency.transfers import Transfers

_LOG = logging.getLogger("merging.residency")

# Pinned memory is allocated in slabs, because torch rounds each pinned allocation up to a power of two.
_SLAB = 1 << 30
_ALIGNMENT = 512


class Residency:
    """Keeps tensors that were read, within a budget. Safe to use from several threads.

    Attributes:
        notes: sentences for the user about the memory.
    """

    def __init__(self, device: torch.device, budget: Budget) -> None:
        self.device = torch.empty(0, device=device).device  # "cuda" is "cuda:0" to a tensor
        self.notes: list[str] = []
        self._left = {"device": budget.device, "host": budget.host}
        self._kept: dict[StoredTensor, Tensor] = {}
        self._lock = threading.Lock()
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._transfers = Transfers(self.device) if device.type == "cuda" else None

    def keep_within(self, budget: Budget) -> None:
        """Take a budget from now on; tensors already kept stay, and do not count."""
        self._left = {"device": budget.device, "host": budget.host}

    def get(self, stored: StoredTensor) -> Tensor:
        """Return a tensor on the device. Do not write to it.

        On a GPU, a tensor announced by `expect` stays valid until `expect` has been called twice more.
        """
        kept = self.keep(stored)
        if kept is not None and kept.device == self.device:
            return kept
        if self._transfers and (arrived := self._transfers.take(stored)) is not None:
            return arrived
        with _plain_tensors():
            return (stored.view() if kept is None else kept).to(self.device)

    def keep(self, stored: StoredTensor) -> Tensor | None:
        """Read a tensor into the best memory with room, unless it is kept already; return None if there is no room."""
        kept = self._kept.get(stored)
        if kept is None and stored.nbytes <= max(self._left.values()):
            with self._lock:
                kept = self._kept.get(stored)
                if kept is None and (kept := self._read_into_the_best(stored)) is not None:
                    self._kept[stored] = kept
        return kept

    def expect(self, wanted: Iterable[StoredTensor]) -> None:
        """Start copying tensors for later `get` calls to the device, while it computes."""
        if self._transfers:
            kept = {stored: self.keep(stored) for stored in wanted}
            self._transfers.begin({s: k for s, k in kept.items() if k is None or k.device != self.device})

    def note_shortage(self, wanted: Collection[StoredTensor]) -> None:
        """Note how much of the wanted tensors did not fit into the device's memory."""
        where = {stored: self._kept.get(stored) for stored in wanted}
        on_host = sum(s.nbytes for s, kept in where.items() if kept is not None and kept.device != self.device)
        nowhere = sum(s.nbytes for s, kept in where.items() if kept is None)
        if on_host or nowhere:
            self.notes.append(
                f"of {sum(s.nbytes for s in wanted) / 1e9:.2f} GB of parents"
                + f" {on_host / 1e9:.2f} GB are kept in host memory" * bool(on_host)
                + " and" * bool(on_host and nowhere)
                + f" {nowhere / 1e9:.2f} GB are read from their files for every candidate" * bool(nowhere)
            )
            _LOG.info(self.notes[-1])

    def close(self) -> None:
        """Give the memory back."""
        if self._transfers:
            self._transfers.close()
        self._kept.clear()
        self._slab = torch.empty(0, dtype=torch.uint8)

    def _read_into_the_best(self, stored: StoredTensor) -> Tensor | None:
        for place in ("device", "host"):
            if stored.nbytes <= self._left[place]:
                try:
                    with _plain_tensors():
                        kept = self._read_into(place, stored)
                    self._left[place] -= stored.nbytes
                    return kept
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._give_up(place)
        return None

    def _read_into(self, place: str, stored: StoredTensor) -> Tensor:
        if place == "device":
            kept = torch.empty(stored.shape, dtype=stored.dtype, device=self.device)
            return kept.copy_(stored.read())
        memory = self._pinned(stored) if self._transfers else torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_into(memory)
        return memory

    def _pinned(self, stored: StoredTensor) -> Tensor:
        size = -(-stored.nbytes // _ALIGNMENT) * _ALIGNMENT
        if size > self._slab.numel():
            slab = min(max(_SLAB, size), max(self._left["host"], size))
            self._slab = torch.empty(slab, dtype=torch.uint8, pin_memory=True)
        part, self._slab = self._slab[: stored.nbytes], self._slab[size:]
        return part.view(stored.dtype).view(stored.shape)

    def _give_up(self, place: str) -> None:
        if place == "device":
            self._left["host"] += self._left["device"]
        self._left[place] = 0
        full = str(self.device) if place == "device" else "the host"
        below = "kept in host memory" if place == "device" else "read from the files for every candidate"
        self.notes.append(f"{full} ran out of memory while the parents were read; the rest of them is {below}")
        _LOG.warning(self.notes[-1])


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # The first caller may be in inference mode, but kept tensors must also work outside of it.
    with torch.inference_mode(False), torch.no_grad():
        yield
