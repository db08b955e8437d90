"""Live models: a transformers model to merge into, its config and its generation config."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoint import Checkpoint
from merging.parents import ParentSet
from merging.special_tokens import SpecialTokens


def merged_config(
    donor: Checkpoint, layers: int, dtype: torch.dtype, rows: int | None, special: SpecialTokens | None
) -> PreTrainedConfig:
    """Return the config of a merge: the donor's, with the merge's depth and dtype.

    The rows of the embedding and the special tokens are the donor's where `rows` or `special` is None.
    """
    config = copy.deepcopy(donor.config)
    config.dtype = dtype
    text = config.get_text_config()
    if text.num_hidden_layers != layers:
        # transformers 5 refuses a list of layer types of another length than the depth.
        kinds = getattr(text, "layer_types", None)
        if kinds:
            text.layer_types = [kinds[index % len(kinds)] for index in range(layers)]
        text.num_hidden_layers = layers
    text.vocab_size = rows or text.vocab_size
    for part in (config,) if text is config else (config, text):
        if special:
            special.put(part)
    return config


def build_model(config: PreTrainedConfig, parents: ParentSet) -> PreTrainedModel:
    """Return a model of a config on the parents' device, in eval mode, its weights not yet set."""
    with no_init_weights(), parents.device:
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=config.dtype, trust_remote_code=parents.trust_remote_code
        )
    model.tie_weights()  # which init_weights would have done
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def generation_config(checkpoint: Checkpoint, special: SpecialTokens | None) -> GenerationConfig:
    """Return a model's generation_config.json, or one made of its config, with these special tokens."""
    found = copy.deepcopy(checkpoint.generation_config)
    if special:
        special.put(found)
    return found
