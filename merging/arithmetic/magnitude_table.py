"""Magnitude tables: how many elements of a tensor have each magnitude.

Guarantees: a table is exact and does not depend on thread counts. It lives on the CPU and is smaller than its tensor;
those of float16, which has more magnitudes, are larger than those of bfloat16.

`TABLE` keeps them on disk, which cuts the first candidate of ties from 4.43 to 3.36 CPU s (docs/benchmarks.md, AVX2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from merging.arithmetic.bits import as_bits, magnitude_mask
from merging.statistics.forms import Form, Named

RUN = 1 << 16
"""The elements that a table counts together, and among which a k-th magnitude is then searched."""

_BINS = 1 << 15

Array: TypeAlias = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the k-th magnitude of a tensor lies: it is the `rank`-th (from 1) of the `count` in a bin.

    Counted from the largest down or, if `rising`, from the smallest up, both among the bins and in the bin.
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

    # NumPy arrays: NumPy looks up single numbers faster than torch.
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


def magnitude_table(pieces: Iterable[Tensor]) -> MagnitudeTable:
    """Count the magnitudes of a tensor that comes in flat pieces of whole runs, each where it lies, device or host."""
    # Only the few bins that a piece has are kept: memory for all of them, 128 KB per run, would fragment the heap.
    found = [counts for piece in pieces for counts in _counts(magnitude_bins(piece))]
    bins = np.unique(np.concatenate([own for own, _ in found]))
    until = np.zeros((len(bins), sum(counts.shape[1] for _, counts in found)), dtype=np.int32)
    run = 0
    for own, counts in found:
        until[bins.searchsorted(own), run : run + counts.shape[1]] = counts
        run += counts.shape[1]
    np.cumsum(until, axis=1, out=until)
    below = np.zeros(len(bins) + 1, dtype=np.int64)
    np.cumsum(until[:, -1], out=below[1:])
    return MagnitudeTable(bins, below, until)


def _counts(bins: Tensor) -> Iterator[tuple[Array, Array]]:
    """Yield the bins that occur, rising, and how often each occurs in each run, (bins, runs)."""
    if bins.device.type == "cpu":
        return (count_on_host(run.numpy(force=True)) for run in torch.split(bins, RUN))
    return iter((count_on_device(bins),))


def count_on_host(run: Array) -> tuple[Array, Array]:
    """Return the values of a run, rising, and their counts, (values, 1); np.unique, which sorts, is slower."""
    counts = np.bincount(run)
    (present,) = counts.nonzero()
    return present, counts[present, None]


def count_on_device(bins: Tensor) -> tuple[Array, Array]:
    """Return the bins that occur, rising, and their counts in each run, (bins, runs), counted on the device."""
    runs = -(-len(bins) // RUN)
    index = torch.arange(len(bins), device=bins.device).div_(RUN, rounding_mode="floor").mul_(_BINS).add_(bins)
    counts = torch.bincount(index, minlength=runs * _BINS).view(runs, _BINS)
    (present,) = counts.any(dim=0).nonzero(as_tuple=True)
    return present.numpy(force=True), counts[:, present].to(torch.int32).T.numpy(force=True)


def _tensors(table: MagnitudeTable) -> Named:
    return {name: torch.from_numpy(getattr(table, name)) for name in ("bins", "below", "until")}


def _table(tensors: Named) -> MagnitudeTable:
    return MagnitudeTable(*(tensors[name].numpy() for name in ("bins", "below", "until")))


TABLE = Form(1, _tensors, _table)
