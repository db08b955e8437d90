"""Live models: a transformers model to merge into, and a plain checkpoint to evaluate."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoint import Checkpoint
from merging.errors import MergingError, first_line
from merging.parents import ParentSet


def merged_config(donor: Checkpoint, layers: int, dtype: torch.dtype) -> PreTrainedConfig:
    """Return the config of a merge: the donor's, with the merge's depth and dtype."""
    config = copy.deepcopy(donor.config)
    config.dtype = dtype
    text = config.get_text_config()
    if text.num_hidden_layers != layers:
        # transformers 5 refuses a list of layer types of another length than the depth.
        kinds = getattr(text, "layer_types", None)
        if kinds:
            text.layer_types = [kinds[index % len(kinds)] for index in range(layers)]
        text.num_hidden_layers = layers
    return config


def build_model(config: PreTrainedConfig, parents: ParentSet) -> PreTrainedModel:
    """Return a model of a config on the parents' device, in eval mode, its weights not yet set."""
    with no_init_weights(), parents.device:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=config.dtype)  # type: ignore[no-untyped-call]
    model.tie_weights()  # which init_weights would have done
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """Return a model's generation_config.json, or one made of its config where it has none."""
    file = checkpoint.folder / "generation_config.json"
    if not file.exists():
        return GenerationConfig.from_model_config(checkpoint.config)
    try:
        return GenerationConfig.from_pretrained(checkpoint.folder)
    except (OSError, ValueError, TypeError) as error:
        raise MergingError(f"{file}: cannot be used: {first_line(error)}") from None


def load_model(
    reference: str, device: str = "cpu", dtype: str | None = None, lazy_unpickle: bool = False
) -> PreTrainedModel:
    """Load one plain checkpoint, its adapter merged if it has one. Raises MergingError if it is missing or broken.

    Args:
        reference: a folder or a hub id, or one and an adapter (``base+adapter``).
        device: where to put it, as torch names devices.
        dtype: a torch dtype's name; by default the one that it is saved in.
        lazy_unpickle: whether torch pickles may be read, where it has no safetensors.
    """
    checkpoint = Checkpoint.open(reference, lazy_unpickle)
    wanted: Any = getattr(torch, dtype) if dtype else checkpoint.dtype
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=wanted)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MergingError(f"model {reference}: cannot be loaded: {error}") from None
    for name, tensor in checkpoint.adapted().items():
        model.get_parameter(name).data.copy_(tensor.read())
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))
