"""On several GPUs: each merges its own tensors, the bits are those of one, and the model can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from merging import MergeOptions, Merger, MergingError, ParentSet, Recipe
from merging.residency.budget import Budget
from tests.merging.conftest import make_family
from tests.merging.recipes import recipes
from tests.merging.test_native import assert_same_bits

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

HALVES = {"": 0, "model.layers.1": 1, "model.layers.2": 1, "lm_head": 1}


@pytest.mark.parametrize("device_map", ["auto", HALVES])
@pytest.mark.parametrize("method", ["ties", "linear", "slices"])
def test_a_spread_model_has_the_bits_of_one_on_the_cpu(
    tmp_path: Path, device_map: Mapping[str, int] | str, method: str
) -> None:
    recipe = Recipe.parse(recipes(make_family(tmp_path), "bfloat16")[method])
    with ParentSet.open(recipe) as plain, ParentSet.open(recipe, MergeOptions(device_map=device_map)) as spread:  # type: ignore[arg-type]
        spread.load()
        expected, found = Merger(plain).apply(recipe), Merger(spread).apply(recipe)
        assert {tensor.device for tensor in found.state_dict().values()} == set(spread.placement.devices)
        for name, tensor in expected.state_dict().items():
            assert_same_bits(found.state_dict()[name].cpu(), tensor)
        tokens = torch.tensor([[5, 6, 7]])
        wanted, logits = expected(tokens).logits, found(tokens.to(found.device)).logits
        assert torch.allclose(logits.cpu().float(), wanted.float(), atol=0.05)


def test_parents_are_kept_on_the_device_of_the_tensor_that_they_serve(tmp_path: Path) -> None:
    recipe = Recipe.parse(recipes(make_family(tmp_path), "bfloat16")["ties"])
    with ParentSet.open(recipe, MergeOptions(device_map=HALVES, memory_budget=Budget(1 << 40, 1 << 40))) as parents:
        parents.load()
        for name in recipe.parents():
            assert parents.tensor(name, "model.layers.2.mlp.up_proj.weight").device == torch.device("cuda", 1)
            assert parents.tensor(name, "model.layers.0.mlp.up_proj.weight").device == torch.device("cuda", 0)


def test_a_model_half_on_the_cpu_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.parse(recipes(make_family(tmp_path), "bfloat16")["ties"])
    with pytest.raises(MergingError, match="several kinds"):
        ParentSet.open(recipe, MergeOptions(device_map={"": 0, "lm_head": "cpu"}))
