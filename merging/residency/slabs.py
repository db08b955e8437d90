"""Slabs: pinned memory for many tensors.

torch rounds each pinned allocation up to a power of two. So memory is allocated in powers of two, and tensors are put
side by side into it, each into the first slab with room.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from merging.residency.streaming import aligned

_SLAB = 1 << 30


class Slabs:
    """Pinned memory in slabs, which are never larger than what is left of a budget.

    Args:
        budget: the bytes of all slabs together.
        allocate: returns pinned bytes.

    Attributes:
        left: the bytes of the budget that are in no slab; callers that take memory elsewhere lower it.
    """

    def __init__(self, budget: int, allocate: Callable[[int], Tensor]) -> None:
        self.left = budget
        self._allocate = allocate
        self._free: list[Tensor] = []

    def has_room(self, size: int) -> bool:
        """Whether `take` would find room."""
        return any(aligned(size) <= len(each) for each in self._free) or _power_of_two(aligned(size)) <= self.left

    def take(self, size: int) -> Tensor | None:
        """Return pinned bytes, or None if the budget has no room. Raises RuntimeError if memory has none."""
        needed = aligned(size)
        place = next((place for place, each in enumerate(self._free) if needed <= len(each)), None)
        if place is None:
            least = _power_of_two(needed)
            if least > self.left:
                return None
            slab = max(least, min(_SLAB, 1 << (self.left.bit_length() - 1)))
            self._free.append(self._allocate(slab))
            self.left -= slab
            place = len(self._free) - 1
        part, self._free[place] = self._free[place][:size], self._free[place][needed:]
        return part

    def clear(self) -> None:
        """Free the memory that no tensor uses."""
        self._free.clear()


def _power_of_two(size: int) -> int:
    """Return the smallest power of two, at least 1, that is no smaller than a size."""
    return 1 << (size - 1).bit_length() if size > 1 else 1
