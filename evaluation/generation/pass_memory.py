"""The memory that generation takes, computed from a model's shape without any measurement.

Guarantees: an upper bound on a pass of our own engine, over the tensors that live at once. It does not include what an
allocator loses by rounding and fragmentation. The layers' memory is free when the logits are made. A CPU returns it to
the system before that (see `make_room_on_host`); a GPU's allocator keeps it in pieces too small for the logits, so both
count there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

DeviceKind: TypeAlias = Literal["cpu", "cuda"]

PASS_TOKENS: Mapping[DeviceKind, int] = {"cpu": 1024, "cuda": 8192}
"""Tokens per pass: enough to keep the processor busy, few enough for its caches and for the memory of the logits. The
row that reaches them may have more."""

SCORED_TOKENS = 64
"""Tokens of a reference whose log-likelihoods are computed at once."""

# How many of the widest tensors of a decoder layer live at once, each with one row per token. MLP: the embeddings, the
# layer's input, the states, the normalized states; act(gate), up and their product. Attention: the first two and the
# normalized states; the queries in the order of the groups, and answers. Both: cosines and sines of the positions.
_MLP_STATES, _MLP_WIDE, _ATTENTION_STATES, _ATTENTION_HEADS, _ROTATIONS = 4, 3, 3, 6, 2
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that decide how much memory a pass takes.

    Attributes:
        layers: the number of decoder layers.
        hidden: the width of the states.
        intermediate: the width of the MLPs; in a mixture of experts, of all experts of a token together.
        vocabulary: the rows of the output head.
        heads: the number of query heads.
        kv_heads: the number of key and value heads.
        head_size: the width of a head.
        itemsize: the bytes per element in the compute dtype.
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
        """Read the shape from a model's config, with transformers' keys.

        Args:
            config: the config of the language model.
            itemsize: the bytes per element.
            layers: the number of layers, if it differs from the config's.
            vocabulary: the rows of the head, if their number differs from the config's.
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


def pass_bytes(shape: ModelShape, tokens: int, length: int, kind: DeviceKind, *, has_head: bool = True) -> int:
    """Return the most bytes that a pass takes on a device besides weights, keys and values.

    Args:
        shape: the model's shape.
        tokens: the tokens in the pass.
        length: the slots of the longest row.
        kind: the kind of the device.
        has_head: whether the logits are made there.
    """
    layers = layers_bytes(shape, tokens, length)
    if not has_head:
        return layers
    logits = logits_bytes(shape, tokens)
    return layers + logits if kind == "cuda" else max(layers, logits + _masks_bytes(shape, tokens, length))


def layers_bytes(shape: ModelShape, tokens: int, length: int) -> int:
    """Return the most bytes that the layers of a pass take besides weights, keys and values.

    Args:
        shape: the model's shape.
        tokens: the tokens in the pass.
        length: the slots of the longest row.
    """
    mlp = _MLP_STATES * shape.hidden + _MLP_WIDE * shape.intermediate
    attention = _ATTENTION_STATES * shape.hidden + _ATTENTION_HEADS * shape.heads * shape.head_size
    widest = max(mlp, attention) + _ROTATIONS * shape.head_size
    return shape.itemsize * tokens * widest + _masks_bytes(shape, tokens, length)


def logits_bytes(shape: ModelShape, tokens: int, scored: int = SCORED_TOKENS) -> int:
    """Return the most bytes that the logits of a pass take: those of a pass of guesses or reference tokens only.

    Args:
        shape: the model's shape.
        tokens: the tokens in the pass.
        scored: the tokens whose log-likelihoods are computed at once, in float32.
    """
    wide = (1 + (shape.itemsize != _FLOAT32)) * _FLOAT32 * min(tokens, scored) * shape.vocabulary
    return shape.itemsize * tokens * (shape.vocabulary + shape.hidden) + wide


def row_of_generate_bytes(shape: ModelShape, width: int, length: int) -> int:
    """Return the most bytes that a row takes in transformers' own `generate`, which reads whole prompts in one pass.

    Args:
        shape: the model's shape.
        width: the padded width of the prompts, in tokens.
        length: the tokens of the row at its end.
    """
    scores = shape.heads * width * width * (2 * shape.itemsize + _FLOAT32)  # their softmax is in float32
    logits = shape.vocabulary * (shape.itemsize + 2 * _FLOAT32)
    # Keys and values are copied whenever they grow by a token, and the old copy leaves a piece too small for the next.
    return 2 * length * shape.slot_bytes + layers_bytes(shape, width, width) + scores + logits


def _masks_bytes(shape: ModelShape, tokens: int, length: int) -> int:
    """Return the bytes of the attention's masks, which last for a pass: each query sees the slots of its row."""
    return shape.itemsize * tokens * shape.heads // shape.kv_heads * length


def _number(config: Any, name: str, default: int) -> int:
    """Return a number of a config; where layers have their own, the largest."""
    if name in (getattr(config, "per_layer_attributes", None) or ()):
        # transformers refuses to give a single value.
        content = config.to_dict()
        layers: Iterable[Mapping[str, int]] = content["per_layer_config"].values()
        return max(content.get(name) or default, *(layer.get(name, 0) for layer in layers))
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else default
