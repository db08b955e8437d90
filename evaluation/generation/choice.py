"""Which backend an evaluator gets, and which generator a model."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.attention import UnsupportedAttentionError
from evaluation.generation.padded import PaddedGenerator
from evaluation.generation.protocol import Backend, BackendName, Generator
from evaluation.generation.transformers_backend import TransformersGenerator
from evaluation.generation.vllm_backend import VllmBackend

_LOG = logging.getLogger(__name__)

# Where no guesses are made and no batch size is given: models are compared in passes of one shape.
_PLAIN_ROWS = 64


class TransformersBackend:
    """Runs the live model itself.

    Args:
        batch_size: requests decoded at once; by default found from free memory.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        self._batch_size = batch_size

    def generator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> Generator:
        """Return the fastest generator that knows the model's layers; see `Backend`."""
        return make_generator(model, tokenizer, self._batch_size, plain)

    def close(self) -> None:
        """Let go of nothing: nothing is kept."""


def make_backend(name: BackendName, batch_size: int | None = None) -> Backend:
    """Return a backend. Raises EvaluationError if it is not installed."""
    return VllmBackend(batch_size) if name == "vllm" else TransformersBackend(batch_size)


def make_generator(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None = None, plain: bool = False
) -> Generator:
    """Return the fastest generator that knows the model's layers; the log tells where it is not the fast one.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        batch_size: requests decoded at once; by default found from free memory.
        plain: no guesses, and a batch size that does not depend on what memory is free, as far as there is any.
    """
    rows = batch_size or (_PLAIN_ROWS if plain else None)
    try:
        return TransformersGenerator(model, tokenizer, rows, drafting=not plain)
    except UnsupportedAttentionError as error:
        _LOG.warning("%s: decoding without drafts, in padded batches: %s", type(model).__name__, error)
        return PaddedGenerator(model, tokenizer, rows)
