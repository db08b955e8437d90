"""Names of tensors in layers: ``model.layers.3.mlp.up_proj.weight``."""

from __future__ import annotations

import re
from typing import NamedTuple

# The first number between dots is the layer: model.layers.3.mlp..., transformer.h.3..., gpt_neox.layers.3...
_NAME = re.compile(r"^(?P<head>(?:[^.]*[^.\d][^.]*\.)+)(?P<index>\d+)\.(?P<tail>.*)$")


class LayerName(NamedTuple):
    """The name of a tensor in a layer.

    Attributes:
        head: the part before the layer's index, with its dot, such as ``model.layers.``; it names the stack.
        layer: the index of the layer.
        tail: the part after the index, without a dot, such as ``mlp.up_proj.weight``.
    """

    head: str
    layer: int
    tail: str

    @classmethod
    def of(cls, name: str) -> LayerName | None:
        """Split a tensor's name; None for a tensor outside the layers."""
        match = _NAME.match(name)
        return cls(match["head"], int(match["index"]), match["tail"]) if match else None
