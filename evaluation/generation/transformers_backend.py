"""The transformers backend: runs the live model itself, with the fastest generator that supports its layers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Completions, OnLikelihood, Request, StreamedWeights
from evaluation.generation.engine.attention import UnsupportedAttentionError
from evaluation.generation.engine.batch_limit import BatchLimit
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.room import UNLIMITED, Room
from evaluation.generation.stock_generator import StockGenerator

_LOG = logging.getLogger(__name__)


class TransformersBackend:
    """Runs the live model itself.

    Args:
        batch_size: requests decoded at once; by default as many as there is room for. In plain generation the default
            is a fixed number, so that all models are compared in passes of one shape.
        room: the memory that a batch may take.
    """

    def __init__(self, batch_size: int | None = None, room: Room = UNLIMITED) -> None:
        self._room = room
        self._plain = BatchLimit(batch_size or room.plain_rows, fixed=True)
        self._batch_size = batch_size
        self._limits: dict[tuple[torch.device, int], BatchLimit] = {}

    def generate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,
        *,
        plain: bool = False,
        weights: StreamedWeights | None = None,  # noqa: ARG002 - see `STREAMING`
    ) -> Completions:
        """Generate with our own attention, or else with the model's own, slower and with a warning; see `Backend`."""
        limit = self._plain if plain else self._limit(model)
        try:
            generator = TransformersGenerator(model, tokenizer, limit, drafting=not plain)
        except UnsupportedAttentionError as error:
            name = type(model).__name__
            _LOG.warning("%s: generating with transformers' own attention, which is slower: %s", name, error)
            return StockGenerator(model, tokenizer, limit).generate(requests)
        return generator.generate(requests, on_likelihood)

    def close(self) -> None:
        """Do nothing: only the limits learned about memory outlive a model."""

    def _limit(self, model: PreTrainedModel) -> BatchLimit:
        """Return the batch limit for models of this size; it is kept, because all candidates have the same size."""
        size = model.device, sum(each.nbytes for each in model.parameters())
        if size not in self._limits:
            self._limits[size] = BatchLimit(self._batch_size, self._room.cache_bytes)
        return self._limits[size]
