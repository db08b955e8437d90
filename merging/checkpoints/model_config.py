"""The config of a model, read-only: what its config.json says, with the defaults of transformers' class for it.

Guarantees: has the attributes that a merge asks of a config, by the names that transformers gives them, and cannot be
changed. It is plain data, so that it can be remembered; what builds a model needs `Checkpoint.transformers_config`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
"""Keys that say how the rows of a projection are split into heads."""
COMPUTED = (
    "rope_parameters", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "hidden_act",
    "hidden_activation", "activation_function", "sliding_window", "use_parallel_residual", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier", "embedding_multiplier",
    "residual_multiplier", "logits_scaling", "num_experts_per_tok", "norm_topk_prob",
)  # fmt: skip
"""Keys that say what a layer computes with its tensors; a merge takes them from its config source."""

# Keys that say how to load one model's files (packed, pruned, from another format) and which code computes it. They
# do not hold for plain tensors.
_LOADING = (
    "quantization_config", "compression_config", "_pre_quantization_dtype", "transformers_weights", "gguf_file",
    "fusion_config", "distributed_config", "tp_size", "torchscript", "pruned_heads", "attn_implementation",
    "_attn_implementation", "experts_implementation", "_experts_implementation",
)  # fmt: skip
_CODE = "auto_map"
# Keys that a class may have as a property, or under another name than in the file.
_ASKED = (*HEADS, *COMPUTED, "model_type", "num_hidden_layers", "tie_word_embeddings")
# transformers lists here the keys that have a value per layer, for which it gives no single value.
_PER_LAYER = "per_layer_attributes"


def loading_keys(content: Mapping[str, Any], has_code: bool) -> list[str]:
    """Return the keys that have a value in a config, and that the config of a merge must not have.

    Args:
        content: what a config says.
        has_code: whether the merge comes with its own Python code.
    """
    return [key for key in (*_LOADING, *([] if has_code else [_CODE])) if content.get(key)]


@dataclass(frozen=True)
class Config:
    """What a config says.

    Attributes:
        content: everything that transformers would write, defaults included.
        attributes: the values that a merge needs.
        text: in a multimodal model, the config of the language model.
    """

    content: Mapping[str, Any]
    attributes: Mapping[str, Any]
    text: Config | None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Config:
        """Make a config from what `plain_config` returned."""
        return cls(plain["content"], plain["attributes"], plain["text"] and cls.of(plain["text"]))

    def get_text_config(self) -> Config:
        """Return the config of the language model."""
        return self.text or self

    def to_dict(self) -> dict[str, Any]:
        """Return everything that it says, defaults included."""
        return dict(self.content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask before there are attributes
            raise AttributeError(name)
        for values in (self.attributes, self.content):
            if name in values:
                return values[name]
        raise AttributeError(f"the config of a {self.content.get('model_type')} model has no {name}")


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a config as plain data, without the place that it was read from."""
    text = config.get_text_config()
    content = json.loads(config.to_json_string(use_diff=False))
    content.pop("_name_or_path", None)
    per_layer = sorted(config.per_layer_attributes or ())
    single = [key for key in _ASKED if key not in per_layer and key not in content and hasattr(config, key)]
    attributes = {key: getattr(config, key) for key in single} | {_PER_LAYER: per_layer}
    return {"content": content, "attributes": attributes, "text": None if text is config else plain_config(text)}
