"""A pass takes no more than is planned for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma4TextConfig, LlamaConfig, LlamaForCausalLM

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.pass_memory import SCORED_TOKENS, ModelShape, pass_bytes
from merging.checkpoints.model_config import Config, plain_config
from tests.parametrization import every
from tests.tiny import byte_tokenizer


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts the bytes of the tensors that operations make, as long as they live.

    Attributes:
        most: the most at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes."""
        given = {_storage(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        self._live = {at: (ref, size) for at, (ref, size) in self._live.items() if not ref.expired()}
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and _storage(each) not in given:
                storage = each.untyped_storage()
                self._live[_storage(each)] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def model_of(hidden: int, intermediate: int, vocabulary: int, kv_heads: int, dtype: torch.dtype) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=kv_heads, max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False).to(dtype)


@pytest.mark.parametrize(
    "sizes",
    every(
        2,
        [
            ((64, 176, 4096, 8, torch.float32),),  # most are logits
            ((64, 176, 4096, 2, torch.bfloat16),),
            ((256, 2048, 320, 8, torch.float32),),  # most are states of the MLP
            ((256, 256, 320, 2, torch.float32),),  # and of the attention
        ],
    ),
)
def test_a_pass_takes_what_is_planned_for_it_and_not_much_less(sizes: tuple[int, int, int, int, torch.dtype]) -> None:
    model, length = model_of(*sizes), 8 + 3 * SCORED_TOKENS
    requests = [Request([5 + row] * 8, max_new_tokens=length - 8, reference=[3] * (length - 8)) for row in range(8)]
    tokens = 0

    def noted(_module: Any, _args: Any, given: Any) -> None:
        nonlocal tokens
        tokens = max(tokens, given["input_ids"].numel())

    generator = TransformersGenerator(model, byte_tokenizer())
    with LiveBytes() as counted, model.register_forward_pre_hook(noted, with_kwargs=True):
        read: set[int] = set()
        for _ in generator.generate(requests, lambda index, _: read.add(index)):
            break  # every row has read its reference
    assert len(read) == 8
    planned = pass_bytes(ModelShape.of(model.config, model.dtype.itemsize), tokens, length, "cpu")
    assert 0.85 * planned < counted.most <= planned


def test_where_layers_have_their_own_sizes_the_largest_counts() -> None:
    config = Gemma4TextConfig(num_hidden_layers=6, num_key_value_heads=4, head_dim=256, global_head_dim=512)
    shapes = [ModelShape.of(each, 2) for each in (config, Config.of(plain_config(config)))]
    assert [shape.slot_bytes for shape in shapes] == [2 * 6 * 4 * 512 * 2] * 2
