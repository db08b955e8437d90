"""What depends on the parents alone: computed at most once for each tensor, whatever the candidates are.

Guarantees: a table is exact and does not depend on block sizes or thread counts. Does not decide what is kept on
which device; tables are small and live on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_BINS = 1 << 15


class Statistics:
    """A memo: the statistics of a parent set, by name, tensor and parents."""

    def __init__(self) -> None:
        self._memo: dict[Hashable, object] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned the first time for this key."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]  # type: ignore[assignment]
        return value


@dataclass(frozen=True, slots=True)
class MagnitudeTable:
    """How many elements of a tensor have each magnitude, by the upper 15 bits of |x|.

    In a 16-bit dtype these are all the bits of a magnitude, so the table gives any k-th largest exactly; in a wider dtype
    it gives the bin that holds it. ``at_least[b]`` counts the elements in bins >= b.
    """

    at_least: Tensor = field(repr=False)  # (2**15 + 1,) int64

    def bin_of(self, k: int) -> int:
        """Return the bin that holds the k-th largest magnitude, for 1 <= k <= number of elements."""
        # at_least falls as the bin rises: the wanted bin is the last one that still reaches k.
        return int(torch.searchsorted(-self.at_least, -k, right=True)) - 1

    def count_above(self, bin_index: int) -> int:
        """Return how many elements lie in higher bins."""
        return int(self.at_least[bin_index + 1])

    def count_in(self, bin_index: int) -> int:
        """Return how many elements lie in the bin."""
        return int(self.at_least[bin_index]) - self.count_above(bin_index)


def magnitude_bins(values: Tensor) -> Tensor:
    """Return the upper 15 bits of |x| of each element, int64, rising with |x|."""
    width = values.element_size() * 8
    as_int = {16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    return (values.view(as_int).to(torch.int64) >> (width - 16)) & (_BINS - 1)


def magnitude_table(blocks: Iterable[Tensor]) -> MagnitudeTable:
    """Count the magnitudes of a tensor that comes in flat blocks."""
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for block in blocks:
        counts += torch.bincount(magnitude_bins(block), minlength=_BINS).cpu()
    at_least = torch.zeros(_BINS + 1, dtype=torch.int64)
    at_least[:_BINS] = counts.flip(0).cumsum(0).flip(0)
    return MagnitudeTable(at_least)
