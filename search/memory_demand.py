"""The inputs of a memory plan, as plain data: the memory that there is, and what a search needs of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evaluation.generation.pass_memory import ModelShape
from evaluation.generation.room import MOST_ROWS

FIRST_ROWS = 82
"""The rows that get room before the parents do: half of HumanEval."""

GradientRoom: TypeAlias = Literal["model", "tensor", "none"]
"""How much of the gradient of an ascent there is room for: that of the whole model, that of one tensor, or neither."""

UNKNOWN = sys.maxsize
"""The size of a memory that nothing is known about."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a device or the host, in bytes; `UNKNOWN` if nothing is known."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """The memory of a machine.

    Attributes:
        host: the host's memory.
        devices: the live model's devices, in the order of the demand's shares; empty if it lies in the host's memory.
        workers: the number of workers on this machine, this one included. Each plans with an equal part of the host's
            memory, but with all that is free on a card, since each may have its own card.
    """

    host: Memory
    devices: tuple[Memory, ...] = ()
    workers: int = 1

    @property
    def host_part(self) -> int:
        """The bytes of the host's memory that this worker may take: what is free, but at most an equal part."""
        return min(self.host.free, self.host.total // self.workers)


@dataclass(frozen=True, slots=True)
class Share:
    """What one device holds of the models, in bytes.

    Attributes:
        parents: all parents' tensors.
        live: the live model in the dtype that it computes in; 0 if there is no whole one.
        slot: the keys and values of one token.
        streaming: the buffers for parents that are not kept there.
        staging: the buffers in the host's memory for those parents that come from files.
        statistics: what methods keep of the parents.
        working: the most that a merge takes in addition, while nothing is generated.
        calibration: what calibrating takes once, before there is a live model.
        gradient: the gradient of an ascent and what its backward pass keeps; 0 without an ascent.
        gradient_by_tensor: what an ascent takes if slopes are taken tensor by tensor; 0 without an ascent.
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
    gradient_by_tensor: int = 0
    engine: int = 0
    has_head: bool = True


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that a search needs.

    Attributes:
        shares: what each device holds.
        shape: the shape of the live model.
        length: the tokens of the longest request, its completion included.
        requests: how many requests may run at once: problems times samples.
        host_statistics: the bytes that methods keep in the host's memory.
        batch_size: the rows that the user asks for.
        parents_limit: the bytes that the user lets parents take in all.
        device_limit: the bytes that the user lets them take on all devices.
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
        """The rows that get room before the parents do."""
        return min(self.batch_size or FIRST_ROWS, max(1, self.requests))

    @property
    def most_rows(self) -> int:
        """The most rows that are of use."""
        return min(self.batch_size or MOST_ROWS, max(1, self.requests))

    @property
    def has_engine(self) -> bool:
        """Whether vLLM generates."""
        return any(share.engine for share in self.shares)
