"""The live model: a transformers model that candidates are merged into."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch

from merging.parents import ParentSet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), device:
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=config.dtype, trust_remote_code=parents.options.trust_remote_code
        )
    model.tie_weights()  # which init_weights would have done
    _widen(model, model.dtype)
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Give float32 to what transformers keeps in it on loading a model in fewer bits, and not on building one."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype.itemsize == 2 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    patterns = [re.compile(part.replace("*", ".*")) for part in kept]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(pattern.search(name) for pattern in patterns):
            tensor.data = tensor.data.float()


def compute_in_float32(model: PreTrainedModel) -> None:
    """Let a model of 16 bits compute in float32, which holds each of its numbers; a wider one is left as it is."""
    if model.dtype.itemsize != 2:
        return
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() and tensor.dtype.itemsize == 2:
            tensor.data = tensor.data.float()
    for config in (model.config, model.config.get_text_config()):
        config.dtype = torch.float32
