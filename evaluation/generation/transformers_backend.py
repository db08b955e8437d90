"""The transformers backend: runs the live model itself, by the fastest generator that knows its layers."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.engine.attention import UnsupportedAttentionError
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.protocol import Generator
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

    def generator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> Generator:
        """Return the fastest generator that knows the model's layers; log if it is the slow one."""
        rows = self._batch_size or (_PLAIN_ROWS if plain else None)
        try:
            return TransformersGenerator(model, tokenizer, rows, drafting=not plain)
        except UnsupportedAttentionError as error:
            name = type(model).__name__
            _LOG.warning("%s: generating with transformers' own attention, which is slower: %s", name, error)
            return StockGenerator(model, tokenizer, rows)

    def close(self) -> None:
        """Do nothing: nothing outlives a model."""
