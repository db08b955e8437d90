"""Differences of parents whose tensors have one shape, and yet do not mean the same.

Guarantees: knows no model family; a key that a config does not have is not compared. Reads configs and tokenizers, no
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedConfig

from merging.errors import first_line

# What transformers says of layers that differ within one model, by the layer's index.
_PER_LAYER = "per_layer_config"
# How the rows of a projection are cut into heads.
_HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim", _PER_LAYER)
# What a layer computes with its tensors; a merge does as its donor does.
_COMPUTED = (
    "rope_parameters", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "hidden_act",
    "hidden_activation", "activation_function", "sliding_window", "use_parallel_residual", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier", "embedding_multiplier",
    "residual_multiplier", "logits_scaling", "num_experts_per_tok", "norm_topk_prob",
)  # fmt: skip
_NAMED = 3


def different_heads(config: PreTrainedConfig, other: PreTrainedConfig) -> str | None:
    """Return in what the attention heads of two models differ, or None."""
    return next(_differences(_HEADS, config, other), None)


def different_computations(config: PreTrainedConfig, other: PreTrainedConfig) -> list[str]:
    """Return in what two models compute otherwise with tensors that are cut alike."""
    return list(_differences(_COMPUTED, config, other))


def different_ids(folder: Path, other: Path) -> str | None:
    """Return which tokens have other ids in the tokenizer of one model than in that of another, or None.

    Tokens that only one of them has are no difference, nor is a model without a tokenizer.json.
    """
    files = [place / "tokenizer.json" for place in (folder, other)]
    if not all(file.exists() for file in files) or files[0].read_bytes() == files[1].read_bytes():
        return None
    try:
        ids, others = (Tokenizer.from_file(str(file)).get_vocab() for file in files)
    except Exception as error:  # the tokenizers library raises no narrower type
        return f"its tokenizer.json cannot be compared: {first_line(error)}"
    moved = sorted((index, token) for token, index in ids.items() if others.get(token, index) != index)
    if not moved:
        return None
    shown = [f"{token!r} is {index} and not {others[token]}" for index, token in moved[:_NAMED]]
    shown += [f"and {len(moved) - _NAMED} more"] if len(moved) > _NAMED else []
    return f"its tokenizer has other ids: {', '.join(shown)}"


def _differences(keys: tuple[str, ...], config: PreTrainedConfig, other: PreTrainedConfig) -> Iterator[str]:
    one, two = config.get_text_config(), other.get_text_config()
    for key in keys:
        here, there = _value(one, key), _value(two, key)
        if here is not None and there is not None and here != there:
            yield f"{key} is {here} and not {there}"


def _value(config: PreTrainedConfig, key: str) -> object:
    if key == _PER_LAYER:
        return config.to_dict().get(key)
    # transformers refuses to give one value of what has another in each layer.
    return None if key in (config.per_layer_attributes or ()) else getattr(config, key, None)
