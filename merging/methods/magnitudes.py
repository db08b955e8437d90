"""Selection by magnitude: where in a tensor the k-th largest or k-th smallest |x| lies, equals taken in their order.

Guarantees: exact, whatever the pieces in which a tensor is read; what it costs is a look at a table that is computed
once for a parent set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.inductor.task_vectors import RUN as RUN  # a kernel searches where a table counts
from merging.methods.bits import number_of
from merging.methods.registry import Block, Operands
from merging.statistics.magnitude_table import TABLE, MagnitudeTable, Place, magnitude_bins, magnitude_table

_RUNS_AT_ONCE = 256  # that a GPU reads


@dataclass(frozen=True, slots=True)
class Boundary:
    """A magnitude, and the flat index behind the last element of this magnitude that belongs to a selection.

    With a `rank`, which is only so where it was asked for, the first `rank` of this magnitude from that index on belong
    to it, too; they lie within a run.
    """

    magnitude: float
    equal_until: int
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """The magnitudes of one tensor that is made of the operands: a task vector, or a variance."""

    operands: Operands
    read: Callable[[Block], Tensor]
    table: MagnitudeTable
    dtype: torch.dtype
    find: Callable[[Block, float, int], int] | None = None
    ranked: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        operands: Operands,
        inputs: Sequence[int],
        read: Callable[[Block], Tensor],
        find: Callable[[Block, float, int], int] | None = None,
        dtype: torch.dtype | None = None,
        ranked: bool = False,
    ) -> Magnitudes:
        """Count the magnitudes of what `read` makes of these inputs, once for a parent set under this name.

        `find` may be a faster way to the index in a block of the element of a magnitude that has a rank (from 1);
        `dtype` is that of what `read` makes, if it is not the merge's. Boundaries in a 16-bit dtype are then found
        without a look at the tensor if they may have a rank (`ranked`).
        """
        table = operands.once(name, inputs, lambda: magnitude_table(_runs(operands, read)), kept=TABLE)
        return cls(operands, read, table, dtype or operands.dtype, find, ranked)

    def largest(self, k: int) -> Boundary:
        """Return the boundary of the k largest, 1 <= k <= elements: those above it, and equals before its index."""
        return self._boundary(self.table.place_of(k))

    def smallest(self, k: int) -> Boundary:
        """Return the boundary of the k smallest, 1 <= k <= elements: those below it, and equals before its index."""
        return self._boundary(self.table.place_from_below(k))

    def _boundary(self, place: Place) -> Boundary:
        if self.dtype.itemsize > 2:
            return self._boundary_within_bin(place)
        magnitude = number_of(place.bin, self.dtype)  # every element of the bin has it
        if place.rank == place.count:
            return Boundary(magnitude, self.operands.elements)
        run, rank = self.table.run_of(place)
        if self.ranked:
            return Boundary(magnitude, run * RUN, rank)
        block = self.operands.block(run * RUN, RUN)
        if self.find:
            return Boundary(magnitude, run * RUN + self.find(block, magnitude, rank) + 1)
        values = self.read(block)
        # NumPy compares 16-bit integers ten times as fast as torch does.
        (equal,) = (magnitude_bins(values).numpy(force=True) == place.bin).nonzero()
        return Boundary(magnitude, run * RUN + int(equal[rank - 1]) + 1)

    def _boundary_within_bin(self, place: Place) -> Boundary:
        magnitudes, positions = [], []
        for block in self.operands.blocks(read_size(self.operands)):
            values, start = self.read(block), block.start
            (inside,) = (magnitude_bins(values) == place.bin).nonzero(as_tuple=True)
            magnitudes.append(values[inside].abs())
            positions.append(inside + start)
        ranked, order = torch.cat(magnitudes).sort(descending=not place.rising, stable=True)
        magnitude = ranked[place.rank - 1]
        equal = order[: place.rank][ranked[: place.rank] == magnitude]
        return Boundary(float(magnitude), int(torch.cat(positions)[equal].max()) + 1)


def read_size(operands: Operands) -> int:
    """Return how many elements are read at once, a multiple of a run: as many as the device is good at."""
    here = operands.block(0, 1)
    device = (here.inputs[0] if here.inputs or here.base is None else here.base).device
    return RUN if device.type == "cpu" else _RUNS_AT_ONCE * RUN


def _runs(operands: Operands, read: Callable[[Block], Tensor]) -> Iterator[Tensor]:
    # Brought to the host in large pieces: that is what counts them.
    for block in operands.blocks(read_size(operands)):
        yield from torch.split(read(block).cpu(), RUN)
