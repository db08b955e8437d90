"""Activation checkpointing: activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Keep only the inputs of each layer for a backward pass, which then takes one more forward pass.

    transformers' own checkpointing only works in training mode, with dropout. If a model's layers do not support
    checkpointing, all activations are kept.
    """
    with ExitStack() as restored:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
                restored.callback(vars(layer).pop, "forward")
        yield
