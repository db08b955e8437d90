"""peft as an oracle: adapters that it saves, and the models that its merge_and_unload makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM


def save_adapter(base: str, folder: Path, seed: int = 0, **options: Any) -> str:
    """Make an adapter with random weights, save it as peft does and return its folder."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # peft has much to say about tied heads
        model = get_peft_model(_load(base), LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 6} | options)))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape).to(parameter.dtype)
        model.save_pretrained(str(folder))
    return str(folder)


def peft_merge(base: str, adapter: str) -> dict[str, Tensor]:
    """Return the tensors that peft makes of a base and an adapter, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged: Any = PeftModel.from_pretrained(_load(base), adapter).merge_and_unload()
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}


def _load(base: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype="auto")
