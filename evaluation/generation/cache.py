"""A key-value cache that grows in steps, so that a decoding step writes one column instead of copying all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_STEP = 64


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A DynamicLayer (transformers 5) whose keys and values are views into buffers with room to spare."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (batch, heads, new, dim) and return all keys and values so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._filled = 0
            self._buffers = self._allocate(key_states), self._allocate(value_states)
        end = self._filled + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = self._grown(self._buffers[0], end), self._grown(self._buffers[1], end)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._filled : end].copy_(states)
        self._filled = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        self._buffers = self._buffers[0][indices], self._buffers[1][indices]
        self.keys, self.values = (buffer[:, :, : self._filled] for buffer in self._buffers)

    def _allocate(self, states: Tensor) -> Tensor:
        batch, heads, length, dim = states.shape
        return states.new_empty((batch, heads, length + _STEP, dim))

    def _grown(self, buffer: Tensor, end: int) -> Tensor:
        batch, heads, _, dim = buffer.shape
        grown = buffer.new_empty((batch, heads, end + _STEP, dim))
        grown[:, :, : self._filled] = buffer[:, :, : self._filled]
        return grown


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model; layers of another kind (sliding windows) stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer  # type: ignore[no-untyped-call]
        for layer in cache.layers
    ]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of the batch in every layer."""
    with torch.inference_mode():
        cache.batch_select_indices(rows)
