"""Residency: the memory that keeps each of the parents' tensors between candidates.

A tensor lives in the best place that has room: the device's memory; else the host's, pinned so that a GPU copies from
it at full speed while it computes; else only its file, which is mapped whenever the tensor is merged. Statistics are
kept likewise, but those without room stay in the host's memory. The place never changes the bits of a merge.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor
from merging.residency.budget import Budget
from merging.residency.copy_queue import CopyQueue, CudaCopyQueue
from merging.residency.memory_errors import is_out_of_memory
from merging.residency.slabs import Slabs
from merging.residency.streaming import buffer_bytes
from merging.residency.transfers import Transfers

_LOG = logging.getLogger("merging.residency")

# The bytes that the device gives up at a time if memory runs out while it merges.
_GIVEN_UP = 1 << 30


class Residency:
    """Keeps tensors that were read, within a budget. Safe to use from several threads.

    Attributes:
        notes: sentences for the user about the memory.
    """

    def __init__(self, device: torch.device, budget: Budget, copies: CopyQueue[Any] | None = None) -> None:
        self.device = torch.empty(0, device=device).device  # "cuda" is "cuda:0" to a tensor
        self.notes: list[str] = []
        self.chunk = budget.chunk
        self._left_on_device, self._spare = budget.device, budget.spare
        self._kept: dict[StoredTensor, Tensor] = {}
        self._statistics: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._lock = threading.Lock()
        if copies is None and device.type == "cuda":
            copies = CudaCopyQueue(self.device)
        self._transfers = Transfers(copies, budget.chunk) if copies else None
        self._slabs = Slabs(budget.host, (copies or CudaCopyQueue).pinned_memory)

    def keep_within(self, budget: Budget) -> None:
        """Use this budget from now on; tensors already kept stay, and do not count."""
        self._left_on_device, self._slabs.left, self.chunk = budget.device, budget.host, budget.chunk
        self._spare = budget.spare
        if self._transfers:
            self._transfers.most = budget.chunk

    def get(self, stored: StoredTensor) -> Tensor:
        """Return a tensor on the device. Do not write to it.

        On a GPU, a tensor announced by `expect` stays valid until `expect` has been called twice more.
        """
        with _plain_tensors():
            return self.source(stored).to(self.device)

    def source(self, stored: StoredTensor) -> Tensor:
        """Return a tensor on the device if it is there already, as `get` does; else on the host."""
        kept = self.keep(stored)
        if kept is not None and kept.device == self.device:
            return kept
        if self._transfers and (arrived := self._transfers.take(stored)) is not None:
            return arrived
        with _plain_tensors():
            return stored.view() if kept is None else kept

    def keep(self, stored: StoredTensor) -> Tensor | None:
        """Read a tensor into the best memory with room, unless it is kept already; return None if there is no room."""
        kept = self._kept.get(stored)
        if kept is None and self._has_room(stored.nbytes):
            with self._lock:
                kept = self._kept.get(stored)
                if kept is None and (kept := self._read_into_the_best(stored)) is not None:
                    self._kept[stored] = kept
        return kept

    def hold(self, made: Tensor, instead_of: Tensor | None = None) -> Tensor:
        """Return a statistic's tensor in the best memory with room: the device's, else pinned; else the host's.

        Args:
            made: the tensor, on any device.
            instead_of: the tensor held before, which is no longer needed; its memory is used again.
        """
        if self._transfers is None or self._is_held(made):
            return made
        held = self._held(made, instead_of)
        self._statistics[id(held)] = held
        return held

    def reserve(self, groups: Iterable[Sequence[StoredTensor]]) -> None:
        """Take the memory needed to stream some groups of tensors, so that it is there when they are merged."""
        if self._transfers:
            away = [[each for each in group if not self._is_here(each)] for group in groups]
            from_files = any(each not in self._kept for group in away for each in group)
            self._transfers.reserve(
                buffer_bytes([[each.nbytes for each in group] for group in away], self.chunk), from_files
            )

    def give_up_some(self) -> int:
        """Let go of some tensors, the largest first; return their bytes. From then on, fewer are kept."""
        with self._lock:
            here = sorted((s for s in self._kept if self._is_here(s)), key=lambda stored: -stored.nbytes)
            freed = 0
            for stored in here:
                if freed >= _GIVEN_UP:
                    break
                del self._kept[stored]
                freed += stored.nbytes
            if freed and self.device.type == "cpu":
                self._left_on_device = 0
            if freed:
                self._give_up("host" if self.device.type == "cpu" else "device", "while they were merged")
        return freed

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
        self._slabs.clear()

    def _is_held(self, tensor: Tensor) -> bool:
        return self._statistics.get(id(tensor)) is tensor

    def _held(self, made: Tensor, instead_of: Tensor | None) -> Tensor:
        with self._lock, _plain_tensors():
            if instead_of is not None and instead_of.shape == made.shape and instead_of.dtype == made.dtype:
                with torch.inference_mode():  # in which it may have been made
                    return instead_of.copy_(made)
            if made.nbytes <= self._left_on_device:
                self._left_on_device -= made.nbytes
                return made.to(self.device)
            return self._held_on_host(made)

    def _is_here(self, stored: StoredTensor) -> bool:
        kept = self._kept.get(stored)
        return kept is not None and kept.device == self.device

    def _has_room(self, size: int) -> bool:
        on_host = self._slabs.has_room(size) if self._transfers else size <= self._slabs.left
        return on_host or size <= self._left_on_device

    def _read_into_the_best(self, stored: StoredTensor) -> Tensor | None:
        for place, read in (("device", self._read_onto_device), ("host", self._read_onto_host)):
            try:
                with _plain_tensors():
                    kept = read(stored)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._give_up(place, "while the parents were read")
            else:
                if kept is not None:
                    return kept
        return None

    def _read_onto_device(self, stored: StoredTensor) -> Tensor | None:
        if stored.nbytes > self._left_on_device:
            return None
        kept = torch.empty(stored.shape, dtype=stored.dtype, device=self.device).copy_(stored.read())
        self._left_on_device -= stored.nbytes
        return kept

    def _read_onto_host(self, stored: StoredTensor) -> Tensor | None:
        if self._transfers:
            part = self._slabs.take(stored.nbytes)
            if part is None:
                return None
            kept = part.view(stored.dtype).view(stored.shape)
            stored.read_into(kept)
            return kept
        if stored.nbytes > self._slabs.left:
            return None
        kept = torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_into(kept)
        self._slabs.left -= stored.nbytes
        return kept

    def _held_on_host(self, made: Tensor) -> Tensor:
        try:
            part = self._slabs.take(made.nbytes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            part = None
        return made.cpu() if part is None else part.view(made.dtype).view(made.shape).copy_(made)

    def _give_up(self, place: str, when: str) -> None:
        if place == "device":
            self._slabs.left += min(self._left_on_device, self._spare)
            self._left_on_device = 0
        else:
            self._slabs.left = 0
        full = str(self.device) if place == "device" else "the host"
        below = "kept in host memory" if self._slabs.left else "read from the files for every candidate"
        rest = "the rest of them" if "read" in when else "a part of the parents"
        note = f"{full} ran out of memory {when}; {rest} is {below}"
        if note not in self.notes:
            self.notes.append(note)
            _LOG.warning(note)


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # The first caller may be in inference mode, but kept tensors must also work outside of it.
    with torch.inference_mode(False), torch.no_grad():
        yield
