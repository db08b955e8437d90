"""The transformers backend: runs the live model itself, with the fastest generator that supports its layers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Completions, OnLikelihood, Request
from evaluation.generation.engine.attention import UnsupportedAttentionError
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.stock_generator import StockGenerator

_LOG = logging.getLogger(__name__)

# The batch size of plain generation: all models are compared in passes of one shape.
_PLAIN_ROWS = 64


class TransformersBackend:
    """Runs the live model itself.

    Args:
        batch_size: requests decoded at once; by default found from free memory.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        self._batch_size = batch_size

    def generate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,
        *,
        plain: bool = False,
    ) -> Completions:
        """Generate with our own attention, or else with the model's own, slower and with a warning; see `Backend`."""
        rows = self._batch_size or (_PLAIN_ROWS if plain else None)
        try:
            generator = TransformersGenerator(model, tokenizer, rows, drafting=not plain)
        except UnsupportedAttentionError as error:
            name = type(model).__name__
            _LOG.warning("%s: generating with transformers' own attention, which is slower: %s", name, error)
            return StockGenerator(model, tokenizer, rows).generate(requests)
        return generator.generate(requests, on_likelihood)

    def close(self) -> None:
        """Do nothing: nothing outlives a model."""
