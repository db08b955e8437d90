"""Numbers that a device needs, sent together: a copy to a GPU costs as much for one number as for thousands."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import torch
from torch import Tensor


class PackedNumbers:
    """Integers and floats, one list after the other.

    `integers` and `reals` return the place of their numbers in the tensor that `sent` returns.
    """

    def __init__(self) -> None:
        self._bits = array("q")
        self._host: Tensor | None = None

    def integers(self, numbers: Iterable[int]) -> slice:
        """Add integers."""
        start = len(self._bits)
        self._bits.extend(numbers)
        return slice(start, len(self._bits))

    def reals(self, numbers: Iterable[float]) -> slice:
        """Add floats, as the bits of float64: ``tensor[place].view(torch.float64)`` gives them back."""
        start = len(self._bits)
        self._bits.frombytes(array("d", numbers).tobytes())
        return slice(start, len(self._bits))

    def sent(self, device: torch.device) -> Tensor:
        """Return all numbers, (n,) int64, on a device; a GPU gets them in one copy that the host does not wait for."""
        if self._host is None:
            self._host = torch.frombuffer(self._bits, dtype=torch.int64)
            if device.type == "cuda":  # only a copy from pinned memory does not block the host
                self._host = self._host.pin_memory()
        return self._host.to(device, non_blocking=True)
