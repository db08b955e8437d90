"""What generation takes of memory, as arithmetic on a model's shape: nothing is measured, and nothing is asked.

Guarantees: bounds a pass of our own engine from above, over the tensors that live at once; does not know what an
allocator loses by rounding and fragments. What layers took is free when the logits are made, but allocators keep it in
pieces that are too small for these, so that both count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASS_TOKENS: Mapping[str, int] = {"cpu": 1024, "cuda": 8192}
"""Tokens per pass: enough to keep the processor busy, few enough for its caches and for the memory of the logits. The
row that reaches them may have more."""

# The widest tensors of a decoder layer that live at once, each of one row per token: in its MLP the states, the
# normalized ones, act(gate), up and their product; in its attention queries in the order of the groups, and answers.
_MLP_STATES, _MLP_WIDE, _ATTENTION_STATES, _ATTENTION_HEADS = 2, 3, 2, 6
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that decide what a pass takes.

    Attributes:
        layers: of the decoder.
        hidden: the width of its states.
        intermediate: of its MLPs; of a mixture, all experts of a token together.
        vocabulary: rows of the output head.
        heads: of queries.
        kv_heads: of keys and values.
        head_size: of each.
        itemsize: bytes of an element, in the dtype that it computes in.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int
    itemsize: int

    @classmethod
    def of(cls, config: Any, itemsize: int, layers: int | None = None, vocabulary: int | None = None) -> ModelShape:
        """Read it from a model's config, as transformers names the keys.

        Args:
            config: of the language model.
            itemsize: bytes of an element.
            layers: how many there are, if not as many as the config says.
            vocabulary: rows of the head, if not as many as the config says.
        """
        heads = _number(config, "num_attention_heads", 1)
        hidden = _number(config, "hidden_size", 1)
        chosen = _number(config, "num_experts_per_tok", 0)
        experts = chosen * _number(config, "moe_intermediate_size", _number(config, "intermediate_size", 0))
        return cls(
            layers or _number(config, "num_hidden_layers", 1),
            hidden,
            experts or _number(config, "intermediate_size", 4 * hidden),
            vocabulary or _number(config, "vocab_size", 1),
            heads,
            _number(config, "num_key_value_heads", heads),
            _number(config, "head_dim", hidden // heads),
            itemsize,
        )

    @property
    def slot_bytes(self) -> int:
        """The bytes of one token's keys and values over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.itemsize


def layers_bytes(shape: ModelShape, tokens: int, length: int) -> int:
    """Return the most bytes that the layers of a pass take beside weights, keys and values.

    Args:
        shape: of the model.
        tokens: in the pass.
        length: slots of the longest row.
    """
    mlp = _MLP_STATES * shape.hidden + _MLP_WIDE * shape.intermediate
    attention = _ATTENTION_STATES * shape.hidden + _ATTENTION_HEADS * shape.heads * shape.head_size
    return shape.itemsize * tokens * (max(mlp, attention) + _masks(shape, length))


def logits_bytes(shape: ModelShape, tokens: int, length: int) -> int:
    """Return the most bytes that the logits of a pass take: all its tokens are guesses, or of references.

    Args:
        shape: of the model.
        tokens: in the pass.
        length: of the longest row, whose log-likelihood is computed in float32.
    """
    scored = (1 + (shape.itemsize != _FLOAT32)) * _FLOAT32 * min(tokens, length) * shape.vocabulary
    return shape.itemsize * tokens * (shape.vocabulary + shape.hidden) + scored


def row_of_generate_bytes(shape: ModelShape, width: int, length: int) -> int:
    """Return the most bytes that a row takes in transformers' own `generate`, which reads whole prompts in one pass.

    Args:
        shape: of the model.
        width: of the prompts.
        length: tokens of the row at its end.
    """
    scores = shape.heads * width * width * (2 * shape.itemsize + _FLOAT32)  # whose softmax is taken in float32
    logits = shape.vocabulary * (shape.itemsize + 2 * _FLOAT32)
    # Keys and values are copied whenever they grow by a token, and what they were leaves pieces that are too small.
    return 2 * length * shape.slot_bytes + layers_bytes(shape, width, width) + scores + logits


def _masks(shape: ModelShape, length: int) -> int:
    """Return the elements of the attention's masks per token: each query sees the slots of its row."""
    return shape.heads // shape.kv_heads * length


def _number(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else default
