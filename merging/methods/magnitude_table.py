"""Magnitude tables: how many elements of a tensor have each magnitude, from which any k-th largest is found.

Guarantees: a table is exact and does not depend on thread counts; it is small (a few percent of the tensor) and lives
on the CPU, wherever the tensor is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from merging.methods.bits import as_bits, magnitude_mask

Array: TypeAlias = npt.NDArray[np.signedinteger[Any]]

_BINS = 1 << 15


@dataclass(frozen=True, slots=True)
class Place:
    """Where the k-th magnitude of a tensor lies: it is the `rank`-th (from 1) of the `count` in a bin.

    Counted from the largest, or from the smallest on (`rising`), in the bin as among the bins.
    """

    bin: int
    rank: int
    count: int
    rising: bool = False


@dataclass(frozen=True, slots=True)
class MagnitudeTable:
    """How many elements of a tensor have each magnitude, by the upper 15 bits of |x|, in all and in each run.

    In a 16-bit dtype these are all the bits of a magnitude, so the table gives any k-th largest exactly; in a wider
    dtype it gives the bin that holds it.
    """

    # NumPy's: looking one number up takes torch three times as long.
    bins: Array = field(repr=False)  # (bins that occur,), rising
    below: Array = field(repr=False)  # (bins that occur + 1,), elements in lower bins
    until: Array = field(repr=False)  # (bins that occur, runs), elements of the bin up to the end of the run

    def place_of(self, k: int) -> Place:
        """Return where the k-th largest magnitude lies, for 1 <= k <= number of elements."""
        smaller = int(self.below[-1]) - k  # elements that come after it
        column = int(self.below.searchsorted(smaller, side="right")) - 1
        above = int(self.below[-1]) - int(self.below[column + 1])
        return Place(int(self.bins[column]), k - above, int(self.below[column + 1]) - int(self.below[column]))

    def place_from_below(self, k: int) -> Place:
        """Return where the k-th smallest magnitude lies, for 1 <= k <= number of elements."""
        column = int(self.below.searchsorted(k)) - 1
        count = int(self.below[column + 1]) - int(self.below[column])
        return Place(int(self.bins[column]), k - int(self.below[column]), count, rising=True)

    def run_of(self, place: Place) -> tuple[int, int]:
        """Return the run that the place's element lies in, equals taken in their order, and its rank there."""
        until = self.until[self.bins.searchsorted(place.bin)]
        run = int(until.searchsorted(place.rank))
        return run, place.rank - (int(until[run - 1]) if run else 0)


def magnitude_bins(values: Tensor) -> Tensor:
    """Return the upper 15 bits of |x| of each element, as integers that rise with |x|."""
    width = values.element_size() * 8
    magnitudes = as_bits(values) & magnitude_mask(values.dtype)
    return magnitudes >> (width - 16) if width > 16 else magnitudes


def magnitude_table(runs: Iterable[Tensor]) -> MagnitudeTable:
    """Count the magnitudes of a tensor that comes in flat runs."""
    by_run = torch.stack([torch.bincount(magnitude_bins(run), minlength=_BINS).to("cpu", torch.int32) for run in runs])
    counts = by_run.sum(dim=0)
    (bins,) = counts.nonzero(as_tuple=True)
    below = torch.zeros(len(bins) + 1, dtype=torch.int64)
    below[1:] = counts[bins].cumsum(0)
    until = by_run[:, bins].T.contiguous().cumsum(dim=1, dtype=torch.int32)
    return MagnitudeTable(bins.numpy(), below.numpy(), until.numpy())
