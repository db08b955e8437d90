"""Stacks: the config of a model whose layers come from several models, or in another order.

Guarantees: per-layer entries of a config follow the layers. A stack is an error if transformers would build other
layers from its config. Reads no weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merging.checkpoints.architecture import Architecture, skeleton
from merging.checkpoints.checkpoint import Checkpoint
from merging.errors import MergingError
from merging.parents import ParentSet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Lists in a config that have one entry per layer only by chance.
_NOT_OF_LAYERS = ("architectures", "_token_id", "_token_ids", "time_step_limit", "_multipliers")
# Lists of the indices of layers.
_INDICES = (
    "attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "hybrid_layer_ids", "mlp_only_layers",
    "moe_layers", "ple_layer_ids", "rope_scaling_layers", "value_embedding_layers",
)  # fmt: skip
# Keys with the number of first layers of a kind, with the number of last ones, and with the index of the last one.
_FIRST = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")
_LAST = ("num_kv_shared_layers",)
_UP_TO = ("moe_layer_end_index",)
# Keys that depend on the position of a layer, and so cannot follow it.
_PERIODIC = (
    "attn_layer_offset", "attn_layer_period", "block_types", "decoder_sparse_step", "expert_layer_offset",
    "expert_layer_period", "full_attention_interval", "interleave_moe_layer_step", "layer_group_size", "moe_layer_freq",
    "moe_layer_interval",
)  # fmt: skip
_DECIDING = (*_FIRST, *_LAST, *_UP_TO, *_PERIODIC)
_OVERRIDES = "per_layer_config"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a parent."""

    parent: str
    index: int


def plain_stack(stack: Sequence[Layer], parents: ParentSet) -> list[object]:
    """Return everything that determines a stack's config and its parents' architecture, as plain data."""
    models = list(parents.checkpoints)
    configs = [checkpoint.config.to_dict() for checkpoint in parents.checkpoints.values()]
    return [configs, [(models.index(layer.parent), layer.index) for layer in stack]]


def stacked_config(config_source: Checkpoint, stack: Sequence[Layer], parents: ParentSet) -> PreTrainedConfig:
    """Return the config source's config, with the entries of each layer from the layer's own model."""
    config = copy.deepcopy(config_source.transformers_config)
    text = config.get_text_config()
    configs = {name: checkpoint.transformers_config for name, checkpoint in parents.checkpoints.items()}
    sources = [_LayerConfig(configs[layer.parent].get_text_config(), layer.index) for layer in stack]
    own = _LayerConfig(text, 0)
    for key in own.values:
        value = _follow(key, own, sources)
        if value is not None:
            setattr(text, key, value)
    text.num_hidden_layers = len(stack)
    if any(source.overrides for source in sources):
        setattr(text, _OVERRIDES, {index: dict(each.overrides) for index, each in enumerate(sources) if each.overrides})
    return config


def untie(config: PreTrainedConfig) -> None:
    """Make a config that ties the output head to the embedding say that the head is a separate tensor."""
    if config.tie_word_embeddings:
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = False


class _LayerConfig:
    """What a model's config says about one of its layers."""

    def __init__(self, config: PreTrainedConfig, index: int) -> None:
        self.values: dict[str, Any] = config.to_dict()
        self.index = index
        self.depth: int = config.num_hidden_layers

    @property
    def overrides(self) -> Mapping[str, object]:
        """The config's overrides for this layer (transformers' heterogeneous models)."""
        found = self.values.get(_OVERRIDES) or {}
        return next((each for index, each in found.items() if int(index) == self.index), {})

    def of_layer(self, key: str, default: object) -> object:
        """Return the layer's entry, or the default if the config has none, as in another architecture."""
        value: Any = self.values.get(key)
        return value[self.index] if self.lists_layers(key) else default if value is None else value

    def lists_layers(self, key: str) -> bool:
        """Whether a key's value has one entry per layer."""
        value = self.values.get(key)
        of_layers = isinstance(value, list) and len(value) == self.depth
        return of_layers and key not in _INDICES and not (key.startswith("mtp_") or key.endswith(_NOT_OF_LAYERS))


def _follow(key: str, config_source: _LayerConfig, sources: Sequence[_LayerConfig]) -> object:
    """Return the value of a config key for the stack, or None if it does not concern layers or cannot follow them."""
    own = config_source.values[key]
    if key in _INDICES and isinstance(own, list):
        return [index for index, each in enumerate(sources) if each.index in (each.values.get(key) or ())]
    if config_source.lists_layers(key):
        return [each.of_layer(key, own[each.index % len(own)]) for each in sources]
    if not isinstance(own, int) or any(not isinstance(each.values.get(key), int) for each in sources):
        return None
    if key in _FIRST:
        first = [each.index < each.values[key] for each in sources]
        return sum(first) if first == sorted(first, reverse=True) else None
    if key in _LAST:
        last = [each.index >= each.depth - each.values[key] for each in sources]
        return sum(last) if last == sorted(last) else None
    if key in _UP_TO:
        return max((index for index, each in enumerate(sources) if each.index <= each.values[key]), default=0)
    return None


def check_stack(
    config: PreTrainedConfig, stack: Sequence[Layer], shapes: Mapping[str, Sequence[int]], parents: ParentSet
) -> None:
    """Check that transformers builds a model with the stacked tensors from a stack's config.

    Args:
        config: the stack's config.
        stack: its layers.
        shapes: the shapes of its tensors.
        parents: the open parents.

    Raises:
        MergingError: the tensors differ; the error names the layer and the config keys that decide.
    """
    layout = parents.architecture.layout
    built = Architecture.of(skeleton(config, "of these slices", parents.options), layout)
    for name in _differing(built, shapes, parents.architecture.by_token):
        had, has = (_as_found(name, each) for each in (shapes, built.shapes))
        main = parents.architecture.main
        if main is None or not name.startswith(main.head):
            raise MergingError(
                f"slices: the merge has {had} {name}, but a {config.model_type} model of {len(stack)} layers "
                f"has {has}; its shape depends on the number of layers, so merge such models whole"
            )
        layer = stack[int(name[len(main.head) :].partition(".")[0])]
        keys = [key for key in _DECIDING if key in config.get_text_config().to_dict()]
        raise MergingError(
            f"slices: layer {layer.index} of {layer.parent} has {had} {name} in its new place, but a "
            f"{config.model_type} model of {len(stack)} layers has {has} there, by "
            f"{', '.join(keys) or 'the number of layers'} in its config; stack layers of one kind in each place"
        )


def _as_found(name: str, shapes: Mapping[str, Sequence[int]]) -> str:
    return f"a tensor of shape {list(shapes[name])}" if name in shapes else "no tensor"


def _differing(built: Architecture, shapes: Mapping[str, Sequence[int]], by_token: frozenset[str]) -> Iterator[str]:
    wanted = [*built.loose, *(name for stack in built.stacks for name in stack.names())]
    for name in dict.fromkeys([*shapes, *wanted]):
        free = 1 if name in by_token else 0
        if name not in wanted or name not in shapes or tuple(shapes[name])[free:] != built.shapes[name][free:]:
            yield name
