"""Device maps: what of them can be seen without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file

from evaluation import Request
from evaluation.generation.engine.generator import TransformersGenerator
from merging import MergeOptions, Merger, MergingError, NonFiniteTensor, ParentSet, Recipe, load_model, load_tokenizer
from merging.residency.placement import Placement, by_device
from tests.merging.conftest import Family, make_family
from tests.merging.recipes import recipes
from tests.merging.test_native import assert_same_bits

A, B = torch.device("cuda", 0), torch.device("cuda", 1)
ALL = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers": "cpu",
    "model.norm": "cpu",
    "lm_head": "cpu",
}


def opened(family: Family, device_map: Mapping[str, str | int] | str) -> ParentSet:
    """Open the parents of a ties merge with a device map."""
    return ParentSet.open(Recipe.parse(recipes(family, "bfloat16")["ties"]), MergeOptions(device_map=device_map))  # type: ignore[arg-type]


def test_the_longest_name_that_fits_decides() -> None:
    placement = Placement({"": A, "model.layers.1": B, "model.layers.1.mlp": A})
    assert placement.devices == (A, B)
    assert placement.device_of("model.layers.1.self_attn.q_proj.weight") == B
    assert placement.device_of("model.layers.1.mlp.up_proj.weight") == A
    assert placement.device_of("model.layers.10.self_attn.q_proj.weight") == A


def test_each_device_gets_its_own_tensors_in_their_order() -> None:
    placement = Placement({"model": A, "model.layers.1": B, "lm_head": B})
    names = ["model.embed", "model.layers.0.w", "model.layers.1.w", "model.layers.1.v", "model.norm", "lm_head.weight"]
    assert by_device(names, placement) == {A: [0, 1, 4], B: [2, 3, 5]}


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, ALL])
def test_a_merge_by_a_device_map_has_the_bits_of_one_without(
    family: Family, device_map: Mapping[str, str] | str
) -> None:
    if device_map == "auto" and torch.cuda.is_available():
        pytest.skip("spreads over the GPUs; see tests/gpu")
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    with ParentSet.open(recipe) as plain, opened(family, device_map) as mapped:
        mapped.load()
        expected, found = (Merger(parents).apply(recipe).state_dict() for parents in (plain, mapped))
        for name, tensor in expected.items():
            assert_same_bits(found[name], tensor)


def test_a_budget_is_shared_by_what_the_devices_hold(family: Family) -> None:
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    with ParentSet.open(recipe, MergeOptions(device_map=ALL, memory_budget=1000)) as parents:
        parents.load()
        assert any("are read from their files for every candidate" in note for note in parents.notes)


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ({"": "disk"}, "all others: weights on 'disk' cannot be merged into"),
        ({"": "cpu", "lm_head": "meta"}, "lm_head: weights on 'meta' cannot be merged into"),
        ({"": "gpu"}, "all others: there is no device 'gpu'"),
        ({"": "cuda:17"}, r"there is no device 'cuda:17' .*; available: cpu"),
        ({"": 17}, "there is no device 17"),
        ({"": "hpu"}, "all others: there is no device 'hpu'"),
        ({"": "mps"}, r"^device_map: all others: there is no device 'mps' \(.{1,120}\); available: cpu"),
        ({"model": "cpu"}, "has no device for lm_head.weight; name its module, or '' for all others"),
        ({"": "cpu", "model.layer.0": "cpu"}, r"no module 'model\.layer\.0'; did you mean 'model\.layers\.0'"),
    ],
)
def test_a_map_that_cannot_be_is_refused(family: Family, device_map: Mapping[str, str | int], message: str) -> None:
    with pytest.raises(MergingError, match=message):
        opened(family, device_map)


def test_tensors_that_a_merge_calls_otherwise_have_the_devices_of_the_live_ones(tmp_path: Path) -> None:
    family = make_family(tmp_path, architecture="gpt_neox")
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    with ParentSet.open(recipe, MergeOptions(device_map={"gpt_neox": "cpu", "lm_head": "cpu"})) as parents:
        for step in Merger(parents).steps(recipe):
            assert parents.placement.device_of(step.name) == torch.device("cpu")
        Merger(parents).apply(recipe)


def test_devices_that_merge_at_the_same_time_give_the_same_bits(family: Family) -> None:
    # To torch "cpu" and "cpu:0" are two devices: each has its thread and its parents.
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    with ParentSet.open(recipe) as plain, opened(family, {"": "cpu", "model.layers.1": "cpu:0"}) as parents:
        parents.load()
        assert len(parents.placement.devices) == 2
        expected, found = (Merger(each).apply(recipe).state_dict() for each in (plain, parents))
        for name, tensor in expected.items():
            assert_same_bits(found[name], tensor)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_model_computes_and_generates_through_the_hooks_of_accelerate(family: Family, devices: int) -> None:
    plain, hooked = load_model(family.a), load_model(family.a)
    dispatch_model(hooked, {"": "cpu"}, force_hooks=True)
    if devices == 2:  # which only says so: accelerate spreads nothing over CPUs
        hooked.hf_device_map = {"model": "cpu:0", "lm_head": "cpu:1"}
    tokenizer = load_tokenizer(family.a)
    requests = [Request(tokenizer.encode(text), max_new_tokens=8) for text in ("def f(", "x = [1, 2")]
    texts = [dict(TransformersGenerator(each, tokenizer, 2).generate(requests)) for each in (plain, hooked)]
    assert texts[0] == texts[1]


def test_what_is_not_finite_is_named_in_a_spread_model_too(tmp_path: Path) -> None:
    family = make_family(tmp_path)
    weights = load_file(Path(family.a) / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][5, 5] = float("nan")
    save_file(weights, Path(family.a) / "model.safetensors", metadata={"format": "pt"})
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    spread = {"": "cpu", "model.layers.1": "cpu:0"}
    with opened(family, spread) as parents, pytest.raises(NonFiniteTensor, match=r"layers\.1\.mlp\.up_proj"):
        Merger(parents).apply(recipe)
