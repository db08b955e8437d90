"""Live models: a transformers model to merge into, its config and its generation config."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoints.checkpoint import Checkpoint
from merging.parents import ParentSet
from merging.plan import Plan
from merging.tokenization.special_tokens import SpecialTokens

# Lists in a config that are as long as the model is deep by chance alone.
_NOT_OF_LAYERS = ("architectures", "_token_id", "_token_ids")


def merged_config(
    donor: Checkpoint, plan: Plan, parents: ParentSet, dtype: torch.dtype, special: SpecialTokens | None
) -> PreTrainedConfig:
    """Return the config of a merge: the donor's, with the merge's depth, rows of the embedding and dtype.

    What the config lists layer by layer (`layer_types`, `no_rope_layers`, ...) follows the layers that were stacked.
    The special tokens are the donor's where `special` is None.
    """
    config = copy.deepcopy(donor.config)
    config.dtype = dtype
    text = config.get_text_config()
    stack = [(parents.checkpoints[layer.parent].config.get_text_config(), layer.index) for layer in plan.stack]
    for key in text.to_dict():
        if _lists_layers(text, key):
            own = getattr(text, key)
            setattr(text, key, [_of_layer(source, key, index, own[index % len(own)]) for source, index in stack])
    text.num_hidden_layers = plan.layers
    text.vocab_size = plan.rows or text.vocab_size
    for part in (config,) if text is config else (config, text):
        if special:
            special.put(part)
    return config


def _of_layer(config: PreTrainedConfig, key: str, index: int, default: Any) -> Any:
    """Return what a config says of a layer, or the default where it says nothing: it may be of another architecture."""
    value: Any = getattr(config, key, None)
    return value[index] if _lists_layers(config, key) else default if value is None else value


def _lists_layers(config: PreTrainedConfig, key: str) -> bool:
    value = getattr(config, key, None)
    return isinstance(value, list) and len(value) == config.num_hidden_layers and not key.endswith(_NOT_OF_LAYERS)


def build_model(config: PreTrainedConfig, parents: ParentSet) -> PreTrainedModel:
    """Return a model of a config on the parents' devices, in eval mode, its weights not yet set.

    One that is spread is made in the host's memory first, which takes none: nothing is written there.
    """
    if not parents.placement.is_spread:
        return _build(config, parents, parents.device)
    with torch.inference_mode(False):  # accelerate makes parameters, which need gradients at first
        model = _build(config, parents, torch.device("cpu"))
        parents.placement.dispatch(model)
    return model


def _build(config: PreTrainedConfig, parents: ParentSet, device: torch.device) -> PreTrainedModel:
    with no_init_weights(), device:
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
