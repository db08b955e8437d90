"""A stream of a merge holds what its export does, bit for bit, and no more than a few tensors at a time."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from merging import Merger, NonFiniteTensor, ParentSet, Recipe, export_model
from merging import merger as merger_module
from tests.merging.conftest import Family
from tests.merging.recipes import recipes
from tests.tiny import TinyModel, save_tiny_model


def exported(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    export_model(recipe, folder)
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def any_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family whose live models have the tensors of its checkpoints, and one whose experts lie together there."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny = [TinyModel(seed=seed, architecture=request.param, layers=2) for seed in range(3)]
    return Family(*(save_tiny_model(folder / str(each.seed), each) for each in tiny))


def ties(family: Family, weight: float = 0.5, factor: float = 1.0) -> Recipe:
    models = f"[{{model: {family.a}}}, {{model: {family.b}}}]"
    return Recipe.parse(
        f"merge_method: ties\nbase_model: {family.base}\nmodels: {models}\n"
        f"parameters: {{weight: {weight}, density: 0.5, lambda: {factor}}}\ndtype: bfloat16"
    )


def test_it_has_the_tensors_of_the_export(any_family: Family, tmp_path: Path) -> None:
    recipe = ties(any_family)
    with ParentSet.open(recipe) as parents:
        found = dict(Merger(parents).stream(recipe))
    assert_same_bits(found, exported(recipe, tmp_path / "merged"))


@pytest.mark.parametrize("kind", ["slices", "passthrough", "slerp", "out_dtype"])
def test_tied_and_stacked_tensors_are_those_of_the_export(qwen_family: Family, tmp_path: Path, kind: str) -> None:
    recipe = Recipe.parse(recipes(qwen_family, "bfloat16")[kind])
    with ParentSet.open(recipe) as parents:
        found = dict(Merger(parents).stream(recipe))
    assert_same_bits(found, exported(recipe, tmp_path / "merged"))


def test_its_digest_is_that_of_the_live_model(any_family: Family) -> None:
    first, second = ties(any_family), ties(any_family, 0.4)
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        streamed = [merger.streamed_digest(recipe) for recipe in (first, second)]
        live = []
        for recipe in (first, second):
            merger.apply(recipe)
            live.append(merger.weights_digest(recipe))
    assert streamed == live
    assert live[0] != live[1]


def test_only_a_group_of_tensors_is_held(any_family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 20_000
    monkeypatch.setattr(merger_module, "_GROUP_BYTES", {"cpu": limit})
    recipe = ties(any_family)
    alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
    most = largest = total = 0
    make = torch.empty_like

    def made(like: Tensor, **options: Any) -> Tensor:
        nonlocal most, largest, total
        tensor = make(like, **options)
        alive[len(alive)] = weakref.ref(tensor.untyped_storage())
        held = sum(found.nbytes() for each in alive.values() if (found := each()) is not None)
        most, largest, total = max(most, held), max(largest, tensor.nbytes), total + tensor.nbytes
        return tensor

    monkeypatch.setattr(merger_module.torch, "empty_like", made)
    with ParentSet.open(recipe) as parents:
        for _ in Merger(parents).stream(recipe):
            pass
    assert most <= max(limit, largest) + largest  # the caller has one of the group before
    assert total > 3 * most


def test_what_is_not_finite_ends_it_with_the_tensors_name(any_family: Family) -> None:
    recipe = ties(any_family, factor=1e45)
    with ParentSet.open(recipe) as parents, pytest.raises(NonFiniteTensor, match="NaN or Inf"):
        list(Merger(parents).stream(recipe))


def test_its_progress_counts_every_tensor(any_family: Family) -> None:
    told: list[tuple[int, int]] = []
    recipe = ties(any_family)
    with ParentSet.open(recipe) as parents:
        list(Merger(parents).stream(recipe, lambda done, total: told.append((done, total))))
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))


def test_a_skeleton_has_no_memory_and_is_built_once_for_a_config(any_family: Family) -> None:
    with ParentSet.open(ties(any_family)) as parents:
        merger = Merger(parents)
        model = merger.skeleton(ties(any_family))
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
        assert merger.skeleton(ties(any_family, 0.4)) is model
