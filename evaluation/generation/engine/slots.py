"""The keys and values of the rows of a batch: each row has slots, and a token's slot is its position.

Guarantees: nothing but `write`, `copy` and `clear` changes a slot, so what a rejected draft left in one stays until the
token that is really there is written over it; a reader masks by position. Buffers are made once a batch, layer by
layer, as the model first writes to them, and never grow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Slots:
    """Keys and values of ``rows`` rows of ``length`` slots, by layer.

    Attributes:
        rows: how many rows there are.
        length: the slots of a row.
    """

    def __init__(self, rows: int, length: int) -> None:
        self.rows = rows
        self.length = length
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (tokens, kv heads, dim) to places (tokens,), each row * length + position."""
        if layer not in self._layers:
            self._layers[layer] = self._zeros(keys), self._zeros(values)
        for buffer, states in zip(self._layers[layer], (keys, values), strict=True):
            buffer.flatten(0, 1).index_copy_(0, places, states)

    def read(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values (rows, kv heads, length, dim) of some rows, as views."""
        keys, values = (buffer[rows, :length].transpose(1, 2) for buffer in self._layers[layer])
        return keys, values

    def copy(self, row: int, to: int, used: int) -> None:
        """Give a row what the first ``used`` slots of another one hold."""
        for buffers in self._layers.values():
            for buffer in buffers:
                buffer[to, :used] = buffer[row, :used]

    def clear(self, row: int) -> None:
        """Let a row hold zeros."""
        for buffers in self._layers.values():
            for buffer in buffers:
                buffer[row].zero_()

    def keep(self, rows: Tensor, used: int) -> None:
        """Make these rows the first ones, in that order; only their first ``used`` slots go along."""
        for buffers in self._layers.values():
            for buffer in buffers:
                buffer[: len(rows), :used] = buffer[rows, :used]

    @property
    def layers(self) -> frozenset[int]:
        """The layers that have written."""
        return frozenset(self._layers)

    @property
    def bytes_per_slot(self) -> int:
        """What one slot of one row takes in all layers that have written."""
        return sum(buffer[0, 0].nbytes for buffers in self._layers.values() for buffer in buffers)

    def _zeros(self, states: Tensor) -> Tensor:
        # Not empty: what a mask hides is multiplied by 0 all the same, and 0 times NaN is NaN.
        shape = (self.rows, self.length, *states.shape[1:])
        if states.device.type != "cpu":
            return states.new_zeros(shape)
        # The system's own zeros: pages that no token reaches are never touched, and take neither time nor memory.
        raw = np.zeros(self.rows * self.length * states[0].nbytes, dtype=np.uint8)
        return torch.from_numpy(raw).view(states.dtype).view(shape)
