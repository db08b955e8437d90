"""What a memory plan is made of: the memory that there is, and what a search wants of it, as plain data."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from evaluation.generation.pass_memory import ModelShape
from evaluation.generation.room import MOST_ROWS

FIRST_ROWS = 82
"""Rows that are given room before parents are: half of HumanEval."""

UNKNOWN = sys.maxsize
"""Stands for a memory of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a device or the host, in bytes; `UNKNOWN` where nothing is known."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """What there is.

    Attributes:
        host: its memory.
        devices: those of the live model, in the order of the demand's shares; none if it lies in the host's memory.
        workers: on this machine, this one included; each plans with its part of the host's memory. Of a card it plans
            with what is free, since each may have its own.
    """

    host: Memory
    devices: tuple[Memory, ...] = ()
    workers: int = 1

    @property
    def host_part(self) -> int:
        """What this worker may take of the host's memory, in bytes: what is free, and no more than an equal part."""
        return min(self.host.free, self.host.total // self.workers)


@dataclass(frozen=True, slots=True)
class Share:
    """What of the models belongs on one device, in bytes.

    Attributes:
        parents: all parents' tensors.
        live: the live model in the dtype that it computes in; 0 if there is no whole one.
        slot: the keys and values of one token.
        streaming: what parents pass through that are not kept there.
        staging: what of them that come from files passes through in the host's memory.
        statistics: what methods keep of the parents.
        working: the most that a merge takes besides, while nothing is generated.
        calibration: what calibrating takes once, before there is a live model.
        gradient: of an ascent, and what its backward pass keeps; 0 without one.
        engine: the weights of a vLLM engine.
        has_head: whether the logits are computed there.
    """

    parents: int
    live: int
    slot: int
    streaming: int = 0
    staging: int = 0
    statistics: int = 0
    working: int = 0
    calibration: int = 0
    gradient: int = 0
    engine: int = 0
    has_head: bool = True


@dataclass(frozen=True, slots=True)
class Demand:
    """What a search wants.

    Attributes:
        shares: what belongs on each device.
        shape: of the live model.
        length: tokens of the longest request, its completion included.
        requests: how many may run at once: problems times samples.
        host_statistics: what methods keep in the host's memory.
        batch_size: rows that the user asks for.
        parents_limit: bytes that the user lets parents take in all.
        device_limit: bytes that the user lets them take on all devices.
    """

    shares: tuple[Share, ...]
    shape: ModelShape
    length: int
    requests: int
    host_statistics: int = 0
    batch_size: int | None = None
    parents_limit: int | None = None
    device_limit: int | None = None

    @property
    def first_rows(self) -> int:
        """The rows that come before parents."""
        return min(self.batch_size or FIRST_ROWS, max(1, self.requests))

    @property
    def most_rows(self) -> int:
        """The rows that are of use where there is room."""
        return min(self.batch_size or MOST_ROWS, max(1, self.requests))

    @property
    def has_engine(self) -> bool:
        """Whether vLLM generates."""
        return any(share.engine for share in self.shares)
