"""Names of tensors are split at the index of their layer."""

from __future__ import annotations

import pytest

from merging.checkpoints.layer_names import LayerName


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.layers.3.mlp.up_proj.weight", LayerName("model.layers.", 3, "mlp.up_proj.weight")),
        ("model.layers.12.mlp.experts.7.w1.weight", LayerName("model.layers.", 12, "mlp.experts.7.w1.weight")),
        ("h2o.blocks2.0.norm", LayerName("h2o.blocks2.", 0, "norm")),
        ("model.embed_tokens.weight", None),
        ("0.weight", None),
        ("model.layers.3", None),
    ],
)
def test_the_first_part_that_is_a_number_is_the_layer(name: str, found: LayerName | None) -> None:
    assert LayerName.of(name) == found
