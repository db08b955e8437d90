"""Activation checkpointing: layers are computed once more in the backward pass instead of being remembered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

_AS_IN_TRAINING = {
    "gradient_checkpointing": True,
    "training": True,  # of the layer alone, not of what is in it: dropout stays off
    "_gradient_checkpointing_func": partial(checkpoint, use_reentrant=False),
}


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Keep only the inputs of each layer for a backward pass, which then takes one more forward pass.

    A model whose layers transformers cannot checkpoint keeps all activations.
    """
    with ExitStack() as restored:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                restored.callback(_set, layer, {key: vars(layer).get(key) for key in _AS_IN_TRAINING})
                _set(layer, _AS_IN_TRAINING)
        yield


def _set(layer: GradientCheckpointingLayer, attributes: dict[str, Any]) -> None:
    """Set attributes of a layer; those that are None become the class's again."""
    for key, value in attributes.items():
        if value is None:
            vars(layer).pop(key, None)
        else:
            vars(layer)[key] = value
