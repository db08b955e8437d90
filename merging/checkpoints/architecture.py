"""The architecture: which tensors a model has, in what order, and which of them belong to a layer.

Guarantees: knows no model family by name; everything is read off the model that transformers builds from the config.
Does not hold weights: that model lives on the meta device.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from pydantic import BaseModel, create_model
from torch import nn

from merging.checkpoints.layout import Layout
from merging.errors import MergingError, code_refused, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# The first number between dots is the layer: model.layers.3.mlp..., transformer.h.3..., gpt_neox.layers.3...
_LAYER = re.compile(r"^(?P<head>(?:[^.]*[^.\d][^.]*\.)+)(?P<index>\d+)(?P<tail>\..*)$")

_TABLES = (nn.Embedding, nn.modules.conv._ConvNd)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The tensors of a model in the order in which it computes with them.

    Attributes:
        before: tensors before the layers (embeddings).
        layer: head and tail of the name of each tensor of a layer; the layer's index stands between them.
        after: tensors after the layers (final norm, head), without those that share another's storage.
        stand_ins: a tensor that a model with tied weights does not save, and the one that it equals there.
        shapes: the shape of each tensor, as the config makes it.
        layout: how these tensors lie in files and in the live model.
        embedding: the input embedding.
        by_token: the tensors that have a row a token: the input embedding, the output head and its bias.
        tables: the patterns of tensors that have a matrix's shape and are none: embeddings, filters of convolutions.
    """

    before: tuple[str, ...]
    layer: tuple[tuple[str, str], ...]
    after: tuple[str, ...]
    stand_ins: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    embedding: str
    by_token: frozenset[str]
    tables: frozenset[str]

    @classmethod
    def of(cls, model: Any, layout: Layout) -> Architecture:
        """Read the architecture off a transformers model, which may be a `skeleton`, and has this layout."""
        shapes = {layout.name_of(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tied = {layout.name_of(name) for name in model.all_tied_weights_keys}
        by_token = [layout.name_of(name) for name in _by_token(model)]
        before: list[str] = []
        after: list[str] = []
        layer: dict[tuple[str, str], None] = {}
        for name in [name for name in shapes if name not in tied]:
            if match := _LAYER.match(name):
                layer[match["head"], match["tail"]] = None
            else:
                (after if layer else before).append(name)
        stand_ins = model._tied_weights_keys if isinstance(model._tied_weights_keys, dict) else {}
        stand_ins = {layout.name_of(name): layout.name_of(other) for name, other in stand_ins.items()}
        modules = (name for name, module in model.named_modules() if isinstance(module, _TABLES))
        tables = frozenset(_pattern(layout.name_of(f"{name}.weight")) for name in modules)
        return cls(
            tuple(before),
            tuple(layer),
            tuple(after),
            stand_ins,
            shapes,
            layout,
            by_token[0],
            frozenset(by_token),
            tables,
        )

    def plain(self) -> dict[str, Any]:
        """Return all but the layout as plain data, as JSON holds it."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layout"}
        return _plain()(**values).model_dump(mode="json")

    @classmethod
    def restored(cls, plain: Mapping[str, Any], layout: Layout) -> Architecture:
        """Return the architecture that `plain` made this of."""
        return cls(**dict(_plain().model_validate(plain)), layout=layout)

    def layer_name(self, position: int, index: int) -> str:
        """Return the name of the tensor at a position of `layer_names`."""
        head, tail = self.layer[position]
        return f"{head}{index}{tail}"

    def layer_names(self, index: int) -> list[str]:
        """Return the names of the tensors of one layer."""
        return [f"{head}{index}{tail}" for head, tail in self.layer]

    def names(self, layers: int) -> list[str]:
        """Return the names of all tensors of a model of that many layers, in order."""
        between = [name for index in range(layers) for name in self.layer_names(index)]
        return [*self.before, *between, *self.after]

    def is_table(self, name: str) -> bool:
        """Whether a tensor is an embedding or the filters of a convolution, in whichever layer."""
        return _pattern(name) in self.tables

    def count_layers(self, names: Iterable[str]) -> int:
        """Return how many layers tensors of these names make."""
        heads = {head for head, _ in self.layer}
        found = (match for name in names if (match := _LAYER.match(name)) and match["head"] in heads)
        return max((int(match["index"]) + 1 for match in found), default=0)


@cache
def _plain() -> type[BaseModel]:
    hints = get_type_hints(Architecture)
    plain: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items() if name != "layout"}
    return create_model("_Plain", **plain)


def _pattern(name: str) -> str:
    match = _LAYER.match(name)
    return f"{match['head']}*{match['tail']}" if match else name


def layer_head(name: str) -> str | None:
    """Return what stands before the layer's index in a tensor's name; None of a tensor of no layer."""
    match = _LAYER.match(name)
    return match["head"] if match else None


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


def skeleton(config: PreTrainedConfig, reference: str, trust_remote_code: bool = False) -> Any:
    """Return the model of a config on the meta device: names and shapes, no weights.

    Raises MergingError that names `reference` if transformers can build no such model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                copy.deepcopy(config), trust_remote_code=trust_remote_code
            )
    except Exception as error:  # whatever the model's own code makes of a config that does not fit it
        raise code_refused(reference, error) or MergingError(
            f"model {reference}: transformers cannot build a causal language model of its config: {first_line(error)}"
        ) from None
