"""Checkpointed layers give the same gradients for less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from merging import load_model
from search.ascent.checkpointing import checkpointed
from tests.search.family import Family


def opt() -> PreTrainedModel:
    """A model whose layers read themselves whether they train, for dropout."""
    sizes = {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=64, num_hidden_layers=4, max_position_embeddings=128, dropout=0.5, **sizes)
    return OPTForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_gradients_are_the_same_and_fewer_activations_are_kept(shared_family: Family, kind: str) -> None:
    model = opt() if kind == "opt" else load_model(str(shared_family.a)).float()
    whole, kept = gradients(model)
    with checkpointed(model):
        again, fewer = gradients(model)
    for name, gradient in whole.items():
        torch.testing.assert_close(again[name], gradient)
    assert fewer < kept / 2
    assert gradients(model)[1] == kept
    assert not any(module.training for module in model.modules())


def gradients(model: PreTrainedModel) -> tuple[dict[str, Tensor], int]:
    """Return the gradient of a loss, and the bytes that its forward pass keeps beside the weights."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.requires_grad_(True)
    tokens = torch.arange(64)[None] % 50
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return found, sum(kept.values())
