"""Keys and values of a batch: each row has slots, and a token's slot is its position.

Guarantees: only `write`, `copy`, `clear` and `keep` change a slot. The states of a rejected guess stay until the real
token overwrites them, so readers mask by position. Buffers are allocated once per batch, layer by layer, when the model
first writes to them, and never grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from evaluation.generation.packed_numbers import PackedNumbers


class Slots:
    """Keys and values of ``rows`` rows of ``length`` slots, by layer.

    Attributes:
        rows: the number of rows.
        length: the number of slots per row.
    """

    def __init__(self, rows: int, length: int) -> None:
        self.rows = rows
        self.length = length
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (tokens, kv heads, dim) to places (tokens,); a place is row * length + position."""
        if layer not in self._layers:
            self._layers[layer] = self._zeros(keys), self._zeros(values)
        for buffer, states in zip(self._layers[layer], (keys, values), strict=True):
            buffer.flatten(0, 1).index_copy_(0, places, states)

    def read(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values (rows, kv heads, length, dim) of some rows, as views."""
        keys, values = (buffer[rows, :length].transpose(1, 2) for buffer in self._layers[layer])
        return keys, values

    @torch.inference_mode()
    def copy(self, row: int, to: int, used: int) -> None:
        """Copy the first ``used`` slots of a row to another row."""
        for buffer in self._buffers:
            buffer[to, :used] = buffer[row, :used]

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Fill a row with zeros."""
        for buffer in self._buffers:
            buffer[row].zero_()

    @torch.inference_mode()
    def keep(self, rows: Sequence[int], used: int) -> None:
        """Move these rows to the front, in this order, with their first ``used`` slots."""
        if not rows:
            return
        numbers = PackedNumbers()
        numbers.integers(rows)
        sent = {device: numbers.sent(device) for device in {buffer.device for buffer in self._buffers}}
        for buffer in self._buffers:
            buffer[: len(rows), :used] = buffer[sent[buffer.device], :used]

    @property
    def layers(self) -> frozenset[int]:
        """The layers that have written so far."""
        return frozenset(self._layers)

    @property
    def bytes_per_slot(self) -> int:
        """The bytes of one slot of one row, over all layers that have written, on all devices."""
        return sum(buffer[0, 0].nbytes for buffer in self._buffers)

    @property
    def _buffers(self) -> Iterator[Tensor]:
        return chain.from_iterable(self._layers.values())

    def _zeros(self, states: Tensor) -> Tensor:
        # Zeros, not empty: masked values are still multiplied by 0, and 0 times NaN is NaN.
        shape = (self.rows, self.length, *states.shape[1:])
        if states.device.type != "cpu":
            return states.new_zeros(shape)
        # numpy gets zero pages from the system: pages that no token reaches cost neither time nor memory.
        raw = np.zeros(self.rows * self.length * states[0].nbytes, dtype=np.uint8)
        return torch.from_numpy(raw).view(states.dtype).view(shape)
