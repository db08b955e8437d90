"""Leftovers: keys of a model's config.json that do not hold for a merge, or that nothing reads.

Guarantees: reads only config files. Knows no model family: transformers' class for a config says which keys it reads.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator

from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.differences import PER_LAYER
from merging.checkpoints.model_config import COMPUTED, HEADS, loading_keys
from merging.checkpoints.model_files import CONFIG

# Names of earlier versions for keys that transformers reads under another name, and keys of all configs.
_READ = (
    "torch_dtype", "rope_scaling", "rope_theta", "rope_local_base_freq", "auto_map", "model_type", "_name_or_path",
    "_commit_hash", "attn_implementation", "_attn_implementation",
)  # fmt: skip
# Keys that may differ between models of one kind: keys that only training reads, ids of tokens, sizes of vocabularies,
# and keys that are reported elsewhere.
_MAY_DIFFER = (
    "architectures", "dtype", "transformers_version", "use_cache", "vocab_size", "initializer_range", "auto_map",
    "pretraining_tp", "tie_word_embeddings", "quantization_config", *HEADS, *COMPUTED, PER_LAYER,
    "per_layer_attributes",
)  # fmt: skip
_ENDINGS = ("_token_id", "_dropout", "_pdrop")


def ignored_keys(checkpoint: Checkpoint) -> list[str]:
    """Return the keys of a model's config.json that neither transformers' class nor a generation config reads."""
    from transformers import GenerationConfig, PreTrainedConfig

    config = checkpoint.transformers_config
    classes = [kind for kind in type(config).__mro__ if issubclass(kind, PreTrainedConfig)]
    generation = GenerationConfig().to_dict()  # type: ignore[no-untyped-call]
    known = {*_READ, *generation, *config.attribute_map, *vars(PreTrainedConfig())}
    for kind in classes:
        known |= {found.name for found in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        known |= {*inspect.signature(kind.__init__).parameters, *vars(kind)}
    content = json.loads((checkpoint.folder / CONFIG).read_text(encoding="utf-8"))
    known |= {*loading_keys(content, has_code=False)}
    return [key for key in content if key not in known and not key.startswith("_") and not key.endswith(_ENDINGS)]


def differing_keys(checkpoint: Checkpoint, other: Checkpoint) -> Iterator[tuple[str, object, object]]:
    """Yield each key for which the configs of two models have different values, and both values.

    Leaves out keys that merging reports anyway, and those that may differ.
    """
    here, there = (each.config.get_text_config().to_dict() for each in (checkpoint, other))
    unread = {*ignored_keys(checkpoint), *ignored_keys(other)}
    for key in here.keys() & there.keys() - unread - set(_MAY_DIFFER):
        if here[key] != there[key] and not key.endswith(_ENDINGS) and not key.startswith("_"):
            yield key, here[key], there[key]


def says_other_dtype(checkpoint: Checkpoint) -> str:
    """Return the dtype that a model's config names, if its weights are stored in another one; else ""."""
    config = checkpoint.config
    said = str(config.to_dict().get("dtype") or config.get_text_config().to_dict().get("dtype") or "")
    return said if said and said != str(checkpoint.dtype).removeprefix("torch.") else ""


def generates_without_cache(checkpoint: Checkpoint) -> bool:
    """Whether a loaded model generates without a key-value cache, as training with gradient checkpointing leaves it."""
    return checkpoint.generation_config.use_cache is False
