"""The memory plan: what a search will take of each device and of the host, decided before it takes anything.

It is arithmetic on the sizes in headers and configs, and on what is free. Keys and values for min(82, problems) rows
come first, because too small a batch costs minutes; parents get the rest, because a parent on the card saves only a
fraction of a second per candidate. Parents that do not fit on a device are kept in the host's memory, or else read from
files. Generation, merging and an ascent take turns, so the gradient of an ascent uses the memory of keys and values.

Guarantees: what is planned for a device or the host is no more than is free there. A plan that cannot work says so
with numbers, before anything is loaded. Part of each memory stays free for what an allocator loses, which is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evaluation.generation.pass_memory import PASS_TOKENS, DeviceKind, pass_bytes
from evaluation.generation.room import MOST_ROWS, PLAIN_ROWS, Room
from evaluation.generation.vllm_engine.engine_settings import (
    ENGINE_OVERHEAD_BYTES,
    least_cache_bytes,
    row_bytes,
)
from merging.residency.budget import Budget
from merging.sizes import shown_size
from search.memory_demand import UNKNOWN, Demand, GradientRoom, MachineMemory, Memory, Share

# The bytes and the part of a device that stay free: for the libraries' workspaces, and for the allocator's losses.
_DEVICE_MARGIN, _DEVICE_MARGIN_PART = 500_000_000, 0.02
# The same for a worker's part of the host's memory: for the sandbox, libraries that are imported later, other programs,
# and the files that the system caches. The bytes are an estimate.
_HOST_MARGIN, _HOST_MARGIN_PART = 200_000_000, 0.1
# Pinned memory comes in slabs of at most 1 GiB. Part of each slab's end is lost, and any part of the last slab.
_SLAB, _PINNED_WASTE = 1 << 30, 0.05
# An estimate: a vLLM engine on a CPU has no graphs, and its steps are shorter, so that its activations are smaller.
_CPU_ENGINE_BYTES = ENGINE_OVERHEAD_BYTES // 2

FREE, LIVE, PASS, CACHE, PARENTS = "left free", "live model", "logits and activations", "keys and values", "parents"
SLABS = "ends of pinned slabs"
BUFFERS, STATISTICS, TABLES = "transfer buffers", "statistics", "magnitude tables"
MERGING, WEIGHTS, ENGINE = "merging and ascent, besides", "engine: weights", "engine: activations, graphs"


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One use of a memory, with its bytes."""

    what: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """The plan for a device or the host.

    Attributes:
        memory: its memory.
        parts: what is taken of it, the margin included.
    """

    memory: Memory
    parts: tuple[MemoryPart, ...]

    @property
    def planned(self) -> int:
        """The bytes of all parts."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory plan of a search or of an evaluation.

    Attributes:
        places: the devices and, last, the host.
        budgets: what parents may take, per device, in the order of the demand's shares.
        rows: the rows that are decoded at once.
        room: what generation may take.
        gradient: how much of the gradient of an ascent there is room for.
        from_host: bytes of parents that are copied from the host's memory for every candidate.
        from_files: bytes that are read from files for every candidate.
        notes: notes for the user, in sentences.
        refusal: why it cannot work, in a sentence; empty if it can.
        lacking: the bytes that merging may take beyond what is left for it, at most.
    """

    places: tuple[PlacePlan, ...]
    budgets: tuple[Budget, ...]
    rows: int
    room: Room
    gradient: GradientRoom
    from_host: int
    from_files: int
    notes: tuple[str, ...] = ()
    refusal: str = ""
    lacking: int = 0

    @property
    def takes_turns(self) -> bool:
        """Whether merges return unused memory to the system, since the host's has no room for all that was wanted.

        Each note tells of one thing without room. Otherwise the C library keeps what is freed, which is faster.
        """
        return len(self.places) == 1 and bool(self.notes)


@dataclass
class _Account:
    """The memory of a device or the host while it is being divided up."""

    memory: Memory
    left: int
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, memory: Memory, own: int, margin: int) -> _Account:
        account = cls(memory, own)
        account.take(FREE, min(margin, own) if memory.free < UNKNOWN else 0)
        return account

    def take(self, what: str, size: int) -> None:
        if size:
            self.sizes[what] = self.sizes.get(what, 0) + size
            self.left -= size

    @property
    def place(self) -> PlacePlan:
        return PlacePlan(self.memory, tuple(MemoryPart(what, size) for what, size in self.sizes.items()))


@dataclass
class _Device:
    """A share of the models in its place: on a device, or in the host's memory."""

    account: _Account
    share: Share
    demand: Demand
    on_gpu: bool
    kept: int = 0

    @property
    def _kind(self) -> DeviceKind:
        return "cuda" if self.on_gpu else "cpu"

    @property
    def buffers(self) -> int:
        """The buffers for parents that are not kept; none in the host's memory, where their files are mapped."""
        return self.share.streaming if self.on_gpu else 0

    @property
    def row(self) -> int:
        """Keys and values of the longest row."""
        if self.share.engine:
            return row_bytes(self.demand.length, self.share.slot, self._kind)
        # When rows end, the others move together, which takes a copy of one layer's keys or values.
        whole = sum(share.slot for share in self.demand.shares)
        copied = min(self.share.slot, whole // (2 * self.demand.shape.layers))
        return self.demand.length * (self.share.slot + copied)

    @property
    def first_row(self) -> int:
        """The least keys and values that generation needs; an engine rounds the length of its longest text up."""
        if not self.share.engine:
            return self.row
        return least_cache_bytes(self.demand.length, self.share.slot, self._kind)

    def take_models(self) -> None:
        shape, length, take = self.demand.shape, self.demand.length, self.account.take
        take(LIVE, self.share.live)
        if self.share.engine:
            take(WEIGHTS, self.share.engine)
            take(ENGINE, ENGINE_OVERHEAD_BYTES if self.on_gpu else _CPU_ENGINE_BYTES)
        else:
            tokens = PASS_TOKENS[self._kind] + length
            take(PASS, pass_bytes(shape, tokens, length, self._kind, has_head=self.share.has_head))

    @property
    def most_rows(self) -> int:
        """The rows that there is room for; an engine keeps its memory, so that merging needs some beside it."""
        room = self.account.left - self.buffers
        if not self.share.engine:
            return self.rows_in(room)
        return max(self.rows_in(room - self.share.working), min(1, self.rows_in(room)))

    def rows_in(self, size: int) -> int:
        if not self.row:
            return MOST_ROWS
        return max(0, size) // self.row if size >= self.first_row else 0

    def cache(self, rows: int) -> int:
        return max(rows * self.row, self.first_row)

    def besides(self, size: int) -> int:
        """Return what work that takes turns with generation needs beyond the memory of keys, values and a pass."""
        sizes = self.account.sizes
        return max(0, size - sizes.get(CACHE, 0) - sizes.get(PASS, 0)) if not self.share.engine else size

    def gradient(self, room: GradientRoom) -> int:
        """Return what an ascent takes if there is so much room."""
        return {"model": self.share.gradient, "tensor": self.share.gradient_by_tensor, "none": 0}[room]

    def take_merging(self, room: GradientRoom) -> int:
        """Take what merges and an ascent need besides; return how much of that there is no room for."""
        besides = self.besides(max(self.share.working, self.gradient(room)))
        taken = max(0, min(besides, self.account.left - self.buffers))
        self.account.take(MERGING, taken)
        return besides - taken

    def take_parents(self, limit: int) -> None:
        """Keep parents and statistics as far as there is room; the rest passes through the buffers."""
        room = self.account.left
        if self.share.calibration:
            other = sum(self.account.sizes.get(what, 0) for what in (LIVE, PASS, CACHE, MERGING))
            room = min(room, room + other - self.share.calibration)
        wanted = min(self.share.parents + self.share.statistics, limit)
        if wanted > room or wanted < self.share.parents + self.share.statistics:
            self.account.take(BUFFERS, self.buffers)
            room -= self.buffers
        self.kept = max(0, min(wanted, room))
        parents = min(self.kept, self.share.parents)
        self.account.take(PARENTS, parents)
        self.account.take(STATISTICS, self.kept - parents)

    @property
    def elsewhere(self) -> int:
        """Parents and statistics that have no room here."""
        return self.share.parents + self.share.statistics - self.kept


def plan_memory(machine: MachineMemory, demand: Demand) -> MemoryPlan:
    """Plan the memory of a search, or of a single evaluation."""
    on_gpu = bool(machine.devices)
    host_margin = max(_HOST_MARGIN, int(_HOST_MARGIN_PART * machine.host_part))
    host = _Account.of(machine.host, machine.host_part, host_margin)
    accounts = [_Account.of(each, each.free, _device_margin(each)) for each in machine.devices]
    devices = [
        _Device(account, share, demand, on_gpu)
        for account, share in zip(accounts or [host], demand.shares, strict=True)
    ]
    for device in devices:
        device.take_models()
    fits = min(device.most_rows for device in devices)
    places = (*(account.place for account in accounts), host.place)
    if refusal := _refusal(devices, fits):
        return MemoryPlan(places, (), 0, Room(), "none", 0, 0, (), refusal)
    rows = min(demand.first_rows, fits)
    for device in devices:
        device.account.take(CACHE, device.cache(rows))
    # A search that keeps the tables on disk maps them from there, so the system can drop them if memory runs short.
    host.take(TABLES, min(demand.host_statistics, max(0, host.left)))
    gradient = _gradient_room(devices)
    lacking = [device.take_merging(gradient) for device in devices]
    for device in devices:
        device.take_parents(_limit(device, demand))
    on_host = _take_host(host, devices, demand) if on_gpu else [0]
    if rows == demand.first_rows < demand.most_rows:  # the parents have all that they can use
        more = min(demand.most_rows - rows, *(device.rows_in(device.account.left) for device in devices))
        for device in devices:
            device.account.take(CACHE, more * device.row)
        rows += more
    from_files = sum(device.elsewhere for device in devices) - sum(on_host)
    has_ends = any(part.what == SLABS for part in host.place.parts)
    spare, kept = max(0, host.left), sum(device.kept for device in devices)
    budgets = tuple(
        Budget(device.kept, _slabs(part) if has_ends else part, spare=spare * device.kept // max(1, kept))
        if on_gpu
        else Budget(0, device.kept)
        for device, part in zip(devices, on_host, strict=True)
    )
    return MemoryPlan(
        (*(account.place for account in accounts), host.place),
        budgets,
        rows,
        _room(devices, demand, rows, fits),
        gradient,
        sum(on_host),
        from_files,
        tuple(_notes(devices, demand, rows, gradient, lacking, from_files)),
        lacking=max(lacking),
    )


def _device_margin(memory: Memory) -> int:
    return _DEVICE_MARGIN + int(_DEVICE_MARGIN_PART * memory.total)


def _limit(device: _Device, demand: Demand) -> int:
    """Return what the user lets parents take here: a limit is divided among the devices as the parents are."""
    limits = [demand.parents_limit, demand.device_limit if device.on_gpu else None]
    whole = sum(share.parents for share in demand.shares)
    part = device.share.parents / whole if whole else 1.0
    return min((int(limit * part) for limit in limits if limit is not None), default=UNKNOWN)


def _take_host(host: _Account, devices: Sequence[_Device], demand: Demand) -> list[int]:
    """Keep in the host's memory what the devices have no room for; return the bytes for each device."""
    wanted = sum(device.elsewhere for device in devices)
    limit = UNKNOWN if demand.parents_limit is None else demand.parents_limit - sum(each.kept for each in devices)
    ends = _SLAB * sum(device.elsewhere > 0 for device in devices)
    kept = min(wanted, limit, _in_slabs(host.left - ends))
    if kept < wanted:  # the rest comes from files, through pinned memory as large as the buffers
        staging = sum(device.share.staging for device in devices if device.elsewhere)
        host.take("buffers for reading files", min(staging, max(0, host.left)))
        kept = max(0, min(kept, _in_slabs(host.left - ends)))
    parts = [device.elsewhere * kept // wanted if wanted else 0 for device in devices]
    host.take(PARENTS, sum(parts))
    if kept < limit:  # a budget of the user bounds the slabs themselves
        host.take(SLABS, sum(_slabs(part) - part for part in parts))
    return parts


def _in_slabs(size: int) -> int:
    """Return the bytes of tensors that pinned slabs of `size` bytes hold, without the last slabs."""
    return int(max(0, size) / (1 + _PINNED_WASTE))


def _slabs(size: int) -> int:
    """Return the bytes of the pinned slabs that hold `size` bytes of tensors."""
    return int(size * (1 + _PINNED_WASTE)) + _SLAB if size else 0


def _gradient_room(devices: Sequence[_Device]) -> GradientRoom:
    def fits(room: GradientRoom) -> bool:
        return not any(each.gradient(room) for each in devices) or all(
            each.besides(each.gradient(room)) + each.buffers <= each.account.left for each in devices
        )

    return "model" if fits("model") else "tensor" if fits("tensor") else "none"


def _room(devices: Sequence[_Device], demand: Demand, rows: int, fits: int) -> Room:
    plain = min(PLAIN_ROWS, fits)
    if not demand.has_engine:
        slot = sum(device.share.slot for device in devices)
        return Room(cache_bytes=rows * demand.length * slot, plain_rows=plain)
    (device,) = (device for device in devices if device.share.engine)
    cache = device.account.sizes.get(CACHE, 0)
    whole = device.share.engine + device.account.sizes[ENGINE] + cache
    return Room(plain_rows=plain, engine_bytes=whole, engine_cache_bytes=cache)


def _refusal(devices: Sequence[_Device], fits: int) -> str:
    """Return why nothing can run, in a sentence; empty if something can."""
    for device in devices:
        free = device.account.left + sum(size for what, size in device.account.sizes.items() if what != FREE)
        if device.share.calibration > free:
            return (
                f"{device.account.memory.name} can give {shown_size(free)}, and calibration takes "
                f"{shown_size(device.share.calibration)} for a parent and a text in float32; take a method that "
                "needs none, or a device with more memory"
            )
    if fits:
        return ""
    device = min(devices, key=lambda each: each.account.left - each.buffers - each.first_row)
    parts = {what: size for what, size in device.account.sizes.items() if what != FREE}
    needed = parts | {BUFFERS: device.buffers, "keys and values of a row": device.first_row}
    free = device.account.left + sum(parts.values())
    told = ", ".join(f"{what} {shown_size(size)}" for what, size in needed.items() if size)
    return (
        f"{device.account.memory.name} can give {shown_size(free)}, and the least that is needed there is "
        f"{shown_size(sum(needed.values()))}: {told}; "
        + (
            f"take the backend transformers, or a {'GPU' if device.on_gpu else 'machine'} with more memory"
            if device.share.engine
            else "spread the model over several GPUs (merging.device_map: auto), or take a GPU with more memory"
            if device.on_gpu
            else "take a machine with more memory, or smaller models"
        )
    )


def _notes(
    devices: Sequence[_Device],
    demand: Demand,
    rows: int,
    gradient: GradientRoom,
    lacking: Sequence[int],
    from_files: int,
) -> Iterator[str]:
    if rows < demand.first_rows:
        device = min(devices, key=lambda each: each.rows_in(each.account.sizes.get(CACHE, 0)) * each.row)
        yield (
            f"{rows} of {demand.first_rows} rows are decoded at once: keys and values of a row of {demand.length:,} "
            f"tokens take {shown_size(device.row)}, and {device.account.memory.name} has room for no more"
        )
    if gradient != "model":
        size = sum(device.share.gradient for device in devices)
        instead = sum(device.share.gradient_by_tensor for device in devices)
        yield f"ascent: memory has no room for a gradient and its backward pass ({shown_size(size)}); " + (
            "slopes are taken tensor by tensor, which merges every tensor again for each batch of solutions"
            if gradient == "tensor"
            else f"nor for slopes that are taken tensor by tensor ({shown_size(instead)}); so there is none"
        )
    if any(lacking):
        device, missing = max(zip(devices, lacking, strict=True), key=lambda each: each[1])
        yield (
            f"merging may run out of memory: it takes up to {shown_size(device.share.working)} besides the models, and "
            f"{device.account.memory.name} has {shown_size(device.share.working - missing)} for that; take fewer or "
            "smaller models, or a method that needs no whole tensors, such as ties"
        )
    if from_files:
        yield f"{shown_size(from_files)} of the parents are not kept in memory, but read for every candidate"
