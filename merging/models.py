"""Live models: a transformers model to merge into, its config and its generation config."""

from __future__ import annotations

import copy
import re
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from merging.checkpoints.checkpoint import Checkpoint
from merging.parents import ParentSet
from merging.plan import Plan
from merging.stacks import stacked_config
from merging.tokenization.special_tokens import SpecialTokens


def merged_config(
    donor: Checkpoint, plan: Plan, parents: ParentSet, dtype: torch.dtype, special: SpecialTokens | None
) -> PreTrainedConfig:
    """Return the config of a merge: the donor's, with the merge's depth, rows of the embedding and dtype.

    What it says of single layers follows those that were stacked. The special tokens are the donor's where `special`
    is None.
    """
    config = stacked_config(donor.config, plan.stack, parents) if plan.stack else copy.deepcopy(donor.config)
    config.dtype = dtype
    text = config.get_text_config()
    text.vocab_size = plan.rows or text.vocab_size
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
    _widen(model, model.dtype)
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Give float32 to what transformers keeps in it on loading a model in fewer bits, and not on building one."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype.itemsize == 2 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    patterns = [re.compile(part.replace("*", ".*")) for part in kept]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(pattern.search(name) for pattern in patterns):
            tensor.data = tensor.data.float()


def generation_config(checkpoint: Checkpoint, special: SpecialTokens | None) -> GenerationConfig:
    """Return a model's generation_config.json, or one made of its config, with these special tokens."""
    found = copy.deepcopy(checkpoint.generation_config)
    if special:
        special.put(found)
    return found
