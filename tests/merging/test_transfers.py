"""Copies to a device that computes meanwhile: on a device made up here, whose copies and work run late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from weakref import finalize

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from merging.checkpoints.weights import StoredTensor, read_header
from merging.residency.budget import Budget
from merging.residency.residency import Residency
from merging.residency.slabs import Slabs
from merging.residency.streaming import aligned, streaming_bytes
from merging.residency.transfers import Transfers
from tests.merging.counted import DEVICE, Queue

SIZES = (300, 5000, 40, 2600, 9000, 700, 7000)  # an odd number, so that the buffers change places with each candidate


@dataclass
class LateDevice:
    """A device with two queues, copies and work: nothing runs before somebody waits for it, or must."""

    capacity: int = 1 << 40
    live: int = 0
    most: int = 0
    pinned: int = 0
    copies: list[Callable[[], None]] = field(default_factory=list)
    work: list[Callable[[], None]] = field(default_factory=list)
    copied: int = 0
    worked: int = 0

    def device_memory(self, size: int) -> Tensor:
        if self.live + size > self.capacity:
            raise torch.OutOfMemoryError("out of memory")
        self.live += size
        self.most = max(self.most, self.live)
        memory = torch.full((size,), 0xAA, dtype=torch.uint8)
        finalize(memory.untyped_storage(), self._freed, size)
        return memory

    def pinned_memory(self, size: int) -> Tensor:
        self.pinned += size
        return torch.full((size,), 0xBB, dtype=torch.uint8)

    def follow_work(self) -> None:
        enqueued = len(self.work)
        self.copies.append(lambda: self.run_work(enqueued))

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        for target, source in pairs:
            self.copies.append(partial(_copy, target, source))

    def mark(self) -> int:
        return len(self.copies)

    def require(self, mark: int) -> None:
        self.work.append(lambda: self.wait(mark))

    def wait(self, mark: int) -> None:
        while self.copied < mark:
            run, self.copies[self.copied] = self.copies[self.copied], _nothing
            self.copied += 1
            run()

    def wait_for_all(self) -> None:
        self.run_work(len(self.work))
        self.wait(len(self.copies))

    def run_work(self, until: int) -> None:
        while self.worked < until:
            run, self.work[self.worked] = self.work[self.worked], _nothing
            self.worked += 1
            run()

    def _freed(self, size: int) -> None:
        self.live -= size


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def _nothing() -> None:
    """What has run holds nothing."""


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> list[list[StoredTensor]]:
    """The tensors of two parents, side by side."""
    folder = tmp_path_factory.mktemp("parents")
    for parent in range(2):
        tensors = {str(index): torch.randn(size).half() for index, size in enumerate(SIZES)}
        save_file(tensors, folder / f"{parent}.safetensors")
    read = [read_header(folder / f"{parent}.safetensors") for parent in range(2)]
    return [[own[str(index)] for own in read] for index in range(len(SIZES))]


def candidates(
    device: LateDevice, transfers: Transfers[int], groups: Sequence[Sequence[StoredTensor]], kept: bool, count: int = 3
) -> list[tuple[StoredTensor, Tensor]]:
    """Merge candidates as the product does, one group ahead; return what the work read, in order."""
    seen: list[tuple[StoredTensor, Tensor]] = []
    for _ in range(count):
        begin(transfers, groups[0], kept)
        for index, group in enumerate(groups):
            if index + 1 < len(groups):
                begin(transfers, groups[index + 1], kept)
            for stored in group:
                arrived = transfers.take(stored)
                if arrived is not None:
                    device.work.append(lambda stored=stored, at=arrived: seen.append((stored, at.clone())))  # type: ignore[misc]
                del arrived  # only the work holds it
    device.wait_for_all()
    return seen


def begin(transfers: Transfers[int], group: Sequence[StoredTensor], kept: bool) -> None:
    transfers.begin({stored: stored.read() if kept else None for stored in group})


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_work_reads_is_what_was_sent_however_late_it_runs(
    parents: list[list[StoredTensor]], kept: bool
) -> None:
    device = LateDevice()
    seen = candidates(device, Transfers(device, 1 << 20), parents, kept)
    assert [stored for stored, _ in seen] == [stored for group in parents for stored in group] * 3
    assert all(torch.equal(found, stored.read()) for stored, found in seen)


@pytest.mark.parametrize("chunk", [4096, 1 << 14, 1 << 20])
@pytest.mark.parametrize("kept", [True, False])
def test_candidates_take_what_the_plan_says_whatever_their_number(
    parents: list[list[StoredTensor]], kept: bool, chunk: int
) -> None:
    sizes = [[stored.nbytes for stored in group] for group in parents]
    planned = streaming_bytes(sizes, chunk, from_files=not kept)
    pieces = chunk if any(sum(map(aligned, group)) > chunk for group in sizes) else 0
    for count in (1, 3, 4):
        device = LateDevice(planned.device - pieces)
        seen = candidates(device, Transfers(device, chunk), parents, kept, count)
        assert device.most <= planned.device - pieces
        assert len(seen) == count * sum(2 for group in sizes if sum(map(aligned, group)) <= chunk)


def test_what_is_reserved_is_all_that_is_ever_taken(parents: list[list[StoredTensor]]) -> None:
    device = LateDevice()
    transfers = Transfers(device, 1 << 14)
    transfers.reserve(1 << 14, from_files=True)
    taken = device.live, device.pinned
    candidates(device, transfers, parents, kept=False)
    assert (device.most, device.pinned) == (taken[0], taken[1]) == (1 << 15, 1 << 15)


@given(st.integers(0, 80_000))
@settings(max_examples=15, deadline=None)
def test_a_device_without_room_copies_less_and_fails_nothing(parents: list[list[StoredTensor]], capacity: int) -> None:
    device = LateDevice(capacity)
    seen = candidates(device, Transfers(device, 1 << 20), parents, kept=False)
    assert all(torch.equal(found, stored.read()) for stored, found in seen)
    assert device.most <= capacity


def test_another_error_of_the_device_is_not_taken_for_a_lack_of_room(parents: list[list[StoredTensor]]) -> None:
    class Lost(LateDevice):
        def device_memory(self, size: int) -> Tensor:  # noqa: ARG002
            raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="launch failure"):
        Transfers(Lost(), 1 << 20).begin(dict.fromkeys(parents[0]))


def test_closing_gives_the_memory_back(parents: list[list[StoredTensor]]) -> None:
    device = LateDevice()
    transfers = Transfers(device, 1 << 20)
    candidates(device, transfers, parents, kept=True)
    assert device.live > 0
    transfers.close()
    assert device.live == 0


# --- pinned memory --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3 << 20), max_size=40), st.integers(0, 1 << 26))
@settings(deadline=None)
def test_slabs_take_no_more_than_their_budget_as_torch_allocates_it(sizes: list[int], budget: int) -> None:
    taken: list[int] = []

    def allocate(size: int) -> Tensor:
        taken.append(1 << (size - 1).bit_length())  # torch rounds up to a power of two
        return torch.empty(size, dtype=torch.uint8)

    slabs = Slabs(budget, allocate)
    parts = []
    for size in sizes:
        had_room, part = slabs.has_room(size), slabs.take(size)
        assert (part is not None) == had_room
        if part is not None:
            assert len(part) == size
            parts.append(part)
    assert sum(taken) == budget - slabs.left <= budget
    spans = sorted((part.data_ptr(), len(part)) for part in parts if len(part))
    assert all(one + size <= other for (one, size), (other, _) in pairwise(spans))


def test_small_tensors_fill_what_a_large_one_left() -> None:
    slabs = Slabs(1 << 31, lambda size: torch.empty(size, dtype=torch.uint8, device="meta"))
    assert slabs.take((1 << 30) + 1) is not None
    assert slabs.left == 0
    assert slabs.take(1 << 29) is not None


# --- tiers ----------------------------------------------------------------------------------------------------------


def test_a_residency_streams_what_it_does_not_keep(parents: list[list[StoredTensor]]) -> None:
    device = LateDevice()
    residency = Residency(torch.device("cpu"), Budget(0, 0, chunk=1 << 14), device)
    residency.reserve(parents)
    for group in parents:
        residency.expect(group)
        found = [residency.get(stored) for stored in group]
        device.wait_for_all()
        assert all(torch.equal(one, stored.read()) for one, stored in zip(found, group, strict=True))
    assert device.most <= streaming_bytes([[s.nbytes for s in g] for g in parents], 1 << 14, from_files=True).device


def test_statistics_lie_on_the_device_then_in_pinned_memory_then_on_the_host() -> None:
    queue = Queue()
    residency = Residency(DEVICE, Budget(4096, 8192), queue)
    tensors = [torch.full((2048,), number, dtype=torch.uint8) for number in range(8)]
    held = [residency.hold(tensor) for tensor in tensors]
    assert [tensor.device.type for tensor in held] == ["meta"] * 2 + ["cpu"] * 6
    on_host = held[2:]
    assert all(torch.equal(one, other) for one, other in zip(on_host, tensors[2:], strict=True))
    slab = [one.untyped_storage().data_ptr() for one in on_host]
    assert slab[:4] == [slab[0]] * 4
    assert len({*slab[3:]}) == 3  # the budget is spent
    assert all(residency.hold(tensor) is tensor for tensor in held)  # and nothing is charged twice


def test_a_statistic_takes_over_the_memory_of_the_one_before() -> None:
    residency = Residency(DEVICE, Budget(0, 4096), Queue())
    first = residency.hold(torch.zeros(1024))
    with torch.inference_mode():
        second = residency.hold(torch.ones(1024), first)
    assert second is first
    assert torch.equal(second, torch.ones(1024))
    assert residency.hold(torch.ones(512), first) is not first


def test_a_statistic_that_is_gone_is_forgotten() -> None:
    residency = Residency(DEVICE, Budget(0, 1 << 20), Queue())
    for _ in range(8):
        held = [residency.hold(torch.zeros(16)) for _ in range(8)]
        assert len(residency._statistics) <= 2 * len(held)
    del held
    assert len(residency._statistics) == 0


def test_on_the_host_alone_a_statistic_stays_where_it_is() -> None:
    made = torch.ones(4)
    assert Residency(torch.device("cpu"), Budget(0, 0)).hold(made) is made
