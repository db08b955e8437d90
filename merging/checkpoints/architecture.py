"""The architecture: which tensors a model has, in what order, and which of them belong to a layer.

Guarantees: knows no model family by name; everything is read off the model that transformers builds from the config.
Does not hold weights: that model lives on the meta device.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import nn

from merging.checkpoints.layer_names import LayerName
from merging.checkpoints.layout import Layout
from merging.errors import MergingError, code_refused, first_line
from merging.options import LOAD, LoadOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TABLES = (nn.Embedding, nn.modules.conv._ConvNd)


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that follow one another.

    Attributes:
        head: the part of its tensors' names before a layer's index.
        layers: for each layer, the parts of its tensors' names after the index, in order.
    """

    head: str
    layers: tuple[tuple[str, ...], ...]

    @property
    def module(self) -> str:
        """mergekit's name for it, if a model has several."""
        return self.head.removesuffix(".")

    def name(self, index: int, tail: str) -> str:
        """Return the name of a tensor of a layer."""
        return f"{self.head}{index}{tail}"

    def names(self) -> list[str]:
        """Return the names of all its tensors, in order."""
        return [self.name(index, tail) for index, tails in enumerate(self.layers) for tail in tails]

    def of_depth(self, layers: int) -> Stack:
        """Return the stack with this many layers; further layers are like the last one."""
        return Stack(self.head, (self.layers + self.layers[-1:] * layers)[:layers])


@dataclass(frozen=True, slots=True)
class Architecture:
    """The tensors of a model in the order in which it computes with them.

    Attributes:
        before: tensors before the layers (embeddings).
        stacks: the layers; a language model has one stack, a vision-language model has two.
        main: the stack whose depth is the config's num_hidden_layers, if there is one.
        after: the other tensors (final norm, head), without those that share the storage of another.
        tied_weights: by name, each tensor that a model with tied weights does not save, and the tensor that it equals.
        shapes: the shape of each tensor, as the config makes it.
        layout: how these tensors lie in files and in the live model.
        embedding: the input embedding.
        by_token: the tensors that have a row per token: the input embedding, the output head and its bias.
        tables: the patterns of tensors that look like matrices but are not: embeddings, convolution filters.
        unused: patterns of tensors that transformers does not load, such as an extra layer that predicts further tokens
            (DeepSeek-V3, GLM-4.5).
    """

    before: tuple[str, ...]
    stacks: tuple[Stack, ...]
    main: Stack | None
    after: tuple[str, ...]
    tied_weights: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    embedding: str
    by_token: frozenset[str]
    tables: frozenset[str]
    unused: tuple[str, ...]

    @classmethod
    def of(cls, model: Any, layout: Layout) -> Architecture:
        """Read the architecture off a transformers model, which may be a `skeleton`.

        Args:
            model: the model.
            layout: its own layout, or that of the models that it is merged with; it decides the tensors' names.
        """
        shapes = {layout.name_of(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tied = {layout.name_of(name) for name in model.all_tied_weights_keys}
        by_token = [layout.name_of(name) for name in _by_token(model)]
        before: list[str] = []
        after: list[str] = []
        layers: dict[str, dict[int, list[str]]] = {}
        for name in [name for name in shapes if name not in tied]:
            if found := LayerName.of(name):
                layers.setdefault(found.head, {}).setdefault(found.layer, []).append(f".{found.tail}")
            else:
                (after if layers else before).append(name)
        stacks = tuple(
            Stack(head, tuple(tuple(tails.get(index, ())) for index in range(max(tails) + 1)))
            for head, tails in layers.items()
        )
        tied_weights = model._tied_weights_keys if isinstance(model._tied_weights_keys, dict) else {}
        tied_weights = {layout.name_of(name): layout.name_of(other) for name, other in tied_weights.items()}
        modules = (name for name, module in model.named_modules() if isinstance(module, _TABLES))
        tables = frozenset(pattern(layout.name_of(f"{name}.weight")) for name in modules)
        return cls(
            tuple(before),
            stacks,
            _main(model, stacks, layout),
            tuple(after),
            tied_weights,
            shapes,
            layout,
            by_token[0],
            frozenset(by_token),
            tables,
            tuple(model._keys_to_ignore_on_load_unexpected or ()),
        )

    @property
    def loose(self) -> tuple[str, ...]:
        """The tensors outside the layers."""
        return self.before + self.after

    def plain(self) -> dict[str, Any]:
        """Return all but the layout as plain data, as JSON holds it."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json", exclude={"layout"})
        return plain

    @classmethod
    def restored(cls, plain: Mapping[str, Any], layout: Layout) -> Architecture:
        """Return the architecture from what `plain` returned."""
        return _adapter().validate_python({**plain, "layout": layout})

    def is_table(self, name: str) -> bool:
        """Whether a tensor is an embedding or the filters of a convolution, in whichever layer."""
        return pattern(name) in self.tables

    def count_layers(self, names: Iterable[str], head: str) -> int:
        """Count the layers of a stack among tensors of these names, without layers that transformers does not load."""
        unused = [re.compile(pattern) for pattern in self.unused]
        used = (name for name in names if not any(pattern.search(name) for pattern in unused))
        found = (at.layer for name in used if (at := LayerName.of(name)) and at.head == head)
        return max(found, default=-1) + 1


def _main(model: Any, stacks: tuple[Stack, ...], layout: Layout) -> Stack | None:
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    decoder = model.get_decoder()
    path = next((path for path, module in model.named_modules() if module is decoder), "")
    found = (LayerName.of(layout.name_of(name)) for name in model.state_dict() if name.startswith(path))
    in_decoder = {layer.head for layer in found if layer}
    fitting = [stack for stack in stacks if len(stack.layers) == depth]
    return min(fitting, key=lambda stack: stack.head not in in_decoder, default=None)


def pattern(name: str) -> str:
    """Return the name of a tensor with a star for its layer."""
    layer = LayerName.of(name)
    return f"{layer.head}*.{layer.tail}" if layer else name


def _by_token(model: Any) -> list[str]:
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [
        f"{path}.{name}"
        for wanted in modules
        if wanted is not None
        for path, module in model.named_modules()
        if module is wanted
        for name, _ in module.named_parameters(recurse=False)
    ]


def skeleton(config: PreTrainedConfig, reference: str, options: LoadOptions = LOAD) -> Any:
    """Return the model of a config on the meta device: names and shapes, no weights.

    Raises MergingError that names `reference` if transformers cannot build the model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                copy.deepcopy(config), trust_remote_code=options.trust_remote_code
            )
    except Exception as error:  # a model's own code may raise anything for a config that does not fit it
        raise code_refused(reference, error) or MergingError(
            f"model {reference}: transformers cannot build a causal language model from its config: {first_line(error)}"
        ) from None


@cache
def _adapter() -> TypeAdapter[Architecture]:
    return TypeAdapter(Architecture)
