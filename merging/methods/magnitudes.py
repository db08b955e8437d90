"""Selection by magnitude: where in a tensor the k-th largest or k-th smallest |x| lies, equals taken in their order.

Guarantees: exact, whatever the pieces in which a tensor is read. A search costs a look at a table that is computed once
per parent set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merging.arithmetic.bits import bits_of, number_of
from merging.arithmetic.magnitude_table import RUN, TABLE, MagnitudeTable, Place, magnitude_bins, magnitude_table
from merging.methods.operands import Block, Operands

_RUNS_AT_ONCE = 256  # on a GPU


@dataclass(frozen=True, slots=True)
class Edge:
    """A magnitude that elements are compared with: `before` up to the flat index `until`, and `after` from there on.

    If it has a `rank`, the index is yet to be found (`locate`): it comes after the `rank`-th element of the larger
    magnitude from `until` on, within a run.
    """

    until: int
    before: float
    after: float
    rank: int = 0

    def at(self, index: int) -> float:
        """Return the magnitude at a flat index."""
        return self.before if index < self.until else self.after

    def widened(self, dtype: torch.dtype) -> Edge:
        """Return the edge, which has no rank, between the same elements before they are rounded to a 16-bit dtype."""
        return replace(self, before=_rounded_until(self.before, dtype), after=_rounded_until(self.after, dtype))


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """The magnitudes of one tensor that is made of the operands: a task vector, or a variance.

    Attributes:
        name: the tensor's name.
        inputs: the inputs that it is made of.
        values: what else it depends on.
        operands: the operands.
        read: makes it of a block.
        table: its table.
        dtype: its dtype.
    """

    name: str
    inputs: Sequence[int]
    values: Hashable
    operands: Operands
    read: Callable[[Block], Tensor]
    table: MagnitudeTable
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        name: str,
        operands: Operands,
        inputs: Sequence[int],
        read: Callable[[Block], Tensor],
        dtype: torch.dtype | None = None,
        values: Hashable = None,
    ) -> Magnitudes:
        """Count the magnitudes of what `read` makes of these inputs, once per parent set and name.

        Args:
            name: the name of what `read` makes.
            operands: the operands.
            inputs: the inputs that it is made of.
            read: makes it of a block.
            dtype: its dtype, if that is not the merge's.
            values: what else it depends on; they are counted again when it changes.
        """

        def count() -> MagnitudeTable:
            return magnitude_table(_pieces(operands, read))

        if values is None:
            table = operands.once(name, inputs, count, kept=TABLE)
        else:
            table = operands.last(name, inputs, values, count, kept=TABLE)
        return cls(name, inputs, values, operands, read, table, dtype or operands.dtype)

    def largest(self, k: int) -> Edge:
        """Return the edge that the k largest, 1 <= k <= elements, lie above; in a 16-bit dtype it may have a rank."""
        magnitude, until, rank = self._kth(self.table.place_of(k))
        return Edge(until, self._below(magnitude) if magnitude else -1.0, magnitude, rank)

    def smallest(self, k: int) -> Edge:
        """Return the edge that the k smallest, 1 <= k <= elements, do not lie above; it may have a rank, too."""
        magnitude, until, rank = self._kth(self.table.place_from_below(k))
        return Edge(until, magnitude, self._below(magnitude) if magnitude else 0.0, rank)

    def _below(self, magnitude: float) -> float:
        return number_of(bits_of(magnitude, self.dtype) - 1, self.dtype)

    def _kth(self, place: Place) -> tuple[float, int, int]:
        """Return the magnitude of the element at a place, and where it is: an index, and a rank from there on."""
        if self.dtype.itemsize > 2:
            # The candidate before usually had the same density.
            name = f"{self.name}, {'smallest' if place.rising else 'largest'}"
            return *self.operands.last(name, self.inputs, (self.values, place), lambda: self._within_bin(place)), 0
        magnitude = number_of(place.bin, self.dtype)  # every element of the bin has it
        if place.rank == place.count:
            return magnitude, self.operands.elements, 0
        run, rank = self.table.run_of(place)
        return magnitude, run * RUN, rank

    def _within_bin(self, place: Place) -> tuple[float, int]:
        magnitudes, positions = [], []
        for block in self.operands.blocks(read_size(self.operands)):
            values = self.read(block)
            (inside,) = (magnitude_bins(values) == place.bin).nonzero(as_tuple=True)
            magnitudes.append(values[inside].abs())
            positions.append(inside + block.start)
        inside_bin = torch.cat(magnitudes)
        rank = place.rank if place.rising else len(inside_bin) + 1 - place.rank
        magnitude = inside_bin.kthvalue(rank).values
        beyond = inside_bin < magnitude if place.rising else inside_bin > magnitude
        equal = torch.cat(positions)[inside_bin == magnitude]  # in their order
        return float(magnitude), int(equal[place.rank - int(beyond.sum()) - 1]) + 1


def _rounded_until(magnitude: float, dtype: torch.dtype) -> float:
    """Return the largest float32 that is rounded to a magnitude; a halfway one is rounded to even."""
    if magnitude < 0 or math.isinf(magnitude):
        return magnitude
    bits = bits_of(magnitude, dtype)
    halfway = (magnitude + number_of(bits + 1, dtype)) / 2
    return number_of(bits_of(halfway, torch.float32) - bits % 2, torch.float32)


def locate(operands: Operands, read: Callable[[Block], Tensor], edge: Edge) -> Edge:
    """Return an edge without a rank: at the index that the rank stands for in what `read` makes of the operands."""
    if not edge.rank:
        return edge
    values = read(operands.block(edge.until, RUN))
    wanted = bits_of(max(edge.before, edge.after), values.dtype)
    # NumPy compares 16-bit integers ten times as fast as torch does.
    (equal,) = (magnitude_bins(values).numpy(force=True) == wanted).nonzero()
    return replace(edge, until=edge.until + int(equal[edge.rank - 1]) + 1, rank=0)


def read_size(operands: Operands) -> int:
    """Return how many elements to read at once, a multiple of a run: as many as suit the device."""
    return RUN if operands.device.type == "cpu" else min(_RUNS_AT_ONCE * RUN, operands.at_once)


def _pieces(operands: Operands, read: Callable[[Block], Tensor]) -> Iterator[Tensor]:
    return (read(block) for block in operands.blocks(read_size(operands)))
