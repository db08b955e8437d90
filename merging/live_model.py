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
    """Build the model of a config on the parents' devices, in eval mode, with undefined weights.

    Its parameters can have gradients. A model for several devices is first built in host memory, where it takes no room
    because nothing is written to it.
    """
    with torch.inference_mode(False):  # tensors made in inference mode can have no gradient
        if not parents.placement.is_spread:
            return _build(config, parents, parents.device)
        model = _build(config, parents, torch.device("cpu"))
        parents.placement.dispatch(model)
    return model


def build_skeleton(config: PreTrainedConfig, parents: ParentSet) -> PreTrainedModel:
    """Build the model of a config without memory for its tensors, which are on the device `meta`, in eval mode."""
    return _build(config, parents, torch.device("meta"))


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
    """Widen the tensors that transformers keeps in float32 when it loads a 16-bit model, but not when it builds one."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype.itemsize == 2 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    patterns = [re.compile(part.replace("*", ".*")) for part in kept]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(pattern.search(name) for pattern in patterns):
            tensor.data = tensor.data.float()


def compute_in_float32(model: PreTrainedModel) -> None:
    """Make a 16-bit model compute in float32, which holds each of its values; leave a wider model as it is."""
    if model.dtype.itemsize != 2:
        return
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() and tensor.dtype.itemsize == 2:
            tensor.data = tensor.data.float()
    for config in (model.config, model.config.get_text_config()):
        config.dtype = torch.float32
