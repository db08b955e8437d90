"""Live models: a transformers model to merge into, and a plain checkpoint to evaluate."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoint import Checkpoint
from merging.errors import MergingError, code_refused, first_line
from merging.parents import ParentSet
from merging.plan import Plan
from merging.special_tokens import SpecialTokens

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
            setattr(text, key, [_of_layer(source, key, index) for source, index in stack])
    text.num_hidden_layers = plan.layers
    text.vocab_size = plan.rows or text.vocab_size
    for part in (config,) if text is config else (config, text):
        if special:
            special.put(part)
    return config


def _of_layer(config: PreTrainedConfig, key: str, index: int) -> Any:
    value = getattr(config, key)
    return value[index] if _lists_layers(config, key) else value


def _lists_layers(config: PreTrainedConfig, key: str) -> bool:
    value = getattr(config, key, None)
    return isinstance(value, list) and len(value) == config.num_hidden_layers and not key.endswith(_NOT_OF_LAYERS)


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
    file = checkpoint.folder / "generation_config.json"
    try:
        if file.exists():
            found = GenerationConfig.from_pretrained(checkpoint.folder)
        else:
            found = GenerationConfig.from_model_config(checkpoint.config)
    except (OSError, ValueError, TypeError) as error:
        raise MergingError(f"{file}: cannot be used: {first_line(error)}") from None
    if special:
        special.put(found)
    return found


def load_model(
    reference: str,
    device: str = "cpu",
    dtype: str | None = None,
    *,
    lazy_unpickle: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load one plain checkpoint, its adapter merged if it has one. Raises MergingError if it is missing or broken.

    Args:
        reference: a folder or a hub id, or one and an adapter (``base+adapter``).
        device: where to put it, as torch names devices.
        dtype: a torch dtype's name; by default the one that it is saved in.
        lazy_unpickle: whether torch pickles may be read, where it has no safetensors.
        trust_remote_code: whether Python code that comes with it may be executed.
    """
    checkpoint = Checkpoint.open(reference, lazy_unpickle=lazy_unpickle, trust_remote_code=trust_remote_code)
    wanted: Any = getattr(torch, dtype) if dtype else checkpoint.dtype
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=wanted, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise code_refused(reference, error) or MergingError(f"model {reference}: cannot be loaded: {error}") from None
    for name, tensor in checkpoint.adapted().items():
        model.get_parameter(name).data.copy_(tensor.read())
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))
