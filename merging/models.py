"""Live models: a transformers model to merge into, and a plain checkpoint to evaluate."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoint import Checkpoint, locate
from merging.errors import MergingError
from merging.parents import ParentSet


def merged_config(parents: ParentSet, layers: int, dtype: torch.dtype) -> PreTrainedConfig:
    """Return the config of a merge: the first parent's (the base's), with the merge's depth and dtype."""
    config = copy.deepcopy(next(iter(parents.checkpoints.values())).config)
    config.dtype = dtype
    if config.num_hidden_layers != layers:
        # transformers 5 refuses a list of layer types of another length than the depth.
        kinds = getattr(config, "layer_types", None)
        if kinds:
            config.layer_types = [kinds[index % len(kinds)] for index in range(layers)]
        config.num_hidden_layers = layers
    return config


def build_model(parents: ParentSet, layers: int, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of the merge's architecture on the parents' device, in eval mode, its weights not yet set."""
    config = merged_config(parents, layers, dtype)
    with no_init_weights(), parents.device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()  # which init_weights would have done
    model.generation_config = generation_config(next(iter(parents.checkpoints)))
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def generation_config(reference: str) -> GenerationConfig:
    """Return a model's generation_config.json, or one made of its config where it has none."""
    folder = locate(reference)
    if (folder / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(Checkpoint.open(reference).config)


def load_model(reference: str, device: str = "cpu", dtype: str | None = None) -> PreTrainedModel:
    """Load one plain checkpoint. Raises MergingError if it is missing or broken.

    Args:
        reference: a folder or a hub id.
        device: where to put it, as torch names devices.
        dtype: a torch dtype's name; by default the one that it is saved in.
    """
    checkpoint = Checkpoint.open(reference)
    wanted: Any = getattr(torch, dtype) if dtype else checkpoint.dtype
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=wanted)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MergingError(f"model {reference}: cannot be loaded: {error}") from None
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))
