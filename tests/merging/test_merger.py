"""The live model: one object, written in place, and never half-right in silence."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Merger, MergingError, NonFiniteTensor, ParentSet, Recipe, load_model
from merging.execution import StepOperands
from merging.kernels import EAGER, eager
from merging.kernels.native import NativeKernels
from tests.conftest import ModelMaker
from tests.merging.conftest import Family
from tests.merging.recipes import NAMES, recipes
from tests.parametrization import every


def text(family: Family, method: str = "ties", weight: object = 0.5, density: object = 0.5) -> str:
    """Return a recipe of both fine-tunes."""
    return f"""
merge_method: {method}
base_model: {family.base}
models:
- {{model: {family.a}, parameters: {{weight: {weight}, density: {density}}}}}
- {{model: {family.b}, parameters: {{weight: 0.5, density: 0.7}}}}
dtype: bfloat16
"""


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors have the same bits."""
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_next_candidate_is_written_into_the_same_tensors(family: Family) -> None:
    first, second = Recipe.parse(text(family)), Recipe.parse(text(family, weight=0.9))
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        model = merger.apply(first)
        addresses = [p.data_ptr() for p in model.parameters()]
        before = tensors(model)
        assert merger.apply(second) is model
        assert [p.data_ptr() for p in model.parameters()] == addresses
        assert not equal(before, tensors(model))
        assert equal(before, tensors(merger.apply(first)))


def test_candidates_do_not_depend_on_those_before_them(family: Family) -> None:
    chain = [recipes(family, "bfloat16")[name] for name in ("ties", "slerp", "linear", "task_arithmetic", "ties")]
    parsed = [Recipe.parse(recipe) for recipe in chain]
    with ParentSet.open(parsed) as parents:
        merger = Merger(parents)
        in_turn = [tensors(merger.apply(recipe)) for recipe in parsed]
        for recipe, merged in zip(parsed, in_turn, strict=True):
            assert equal(merged, tensors(Merger(parents).apply(recipe)))


def test_a_parent_alone_is_that_parent(family: Family) -> None:
    recipe = Recipe.single(family.a)
    with ParentSet.open([recipe, Recipe.parse(text(family))]) as parents:
        merged = tensors(Merger(parents).apply(recipe))
    assert equal(load_file(Path(family.a) / "model.safetensors"), merged)


@pytest.mark.parametrize("tied_first", [True, False])
def test_candidates_with_a_head_and_without_one_of_their_own_have_one_parent_set(
    make_model: ModelMaker, tied_first: bool
) -> None:
    models = [make_model("tied", tied=True), make_model("untied", seed=1)]
    # Filters tell the head from the embedding, which are one tensor where they are tied.
    scale = [{"filter": "embed", "value": 0.5}, {"value": 2.0}]
    recipes = [
        Recipe.from_dict(
            {"merge_method": "passthrough", "models": [{"model": model, "parameters": {"scale": scale}}]}, "test"
        )
        for model in (models if tied_first else reversed(models))
    ]
    with ParentSet.open(recipes) as parents:
        merger = Merger(parents)
        for recipe in recipes:
            merged, own = merger.apply(recipe).state_dict(), load_file(Path(recipe.config_source) / "model.safetensors")
            assert all(
                torch.equal(merged[name], tensor * (0.5 if "embed" in name else 2.0)) for name, tensor in own.items()
            )
            shared = merged["lm_head.weight"].data_ptr() == merged["model.embed_tokens.weight"].data_ptr()
            assert shared == ("lm_head.weight" not in own)


@pytest.mark.parametrize("kind", ["family", "qwen_family"])
def test_the_live_model_computes_what_a_loaded_one_does(kind: str, request: pytest.FixtureRequest) -> None:
    model: str = request.getfixturevalue(kind).a
    recipe = Recipe.single(model)
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe)
    loaded = load_model(model)
    tokens = torch.arange(12)[None]
    assert torch.equal(live(tokens).logits, loaded(tokens).logits)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear"])
def test_a_merge_does_not_depend_on_block_size_or_threads(
    family: Family, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(text(family, method))
    merged = []
    threads = torch.get_num_threads()
    with ParentSet.open(recipe) as parents:
        for block, count in ((1 << 17, 1), (640, 1), (1 << 12, 2)):
            monkeypatch.setitem(eager._BLOCK, "cpu", block)
            torch.set_num_threads(count)
            merged.append(tensors(Merger(parents, random_seed=7).apply(recipe)))
    torch.set_num_threads(threads)
    assert equal(merged[0], merged[1])
    assert equal(merged[0], merged[2])


def test_the_seed_alone_decides_what_dare_drops(family: Family) -> None:
    recipe = Recipe.parse(text(family, "dare_ties"))
    with ParentSet.open(recipe) as parents:
        one, same, other = (tensors(Merger(parents, seed).apply(recipe)) for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)


def test_a_larger_density_keeps_what_a_smaller_one_kept(family: Family) -> None:
    kept = []
    loose = (
        text(family, "dare_linear", weight=1.0).replace("weight: 0.5", "weight: 0.0") + "parameters: {rescale: false}\n"
    )
    with ParentSet.open(Recipe.parse(loose)) as parents:
        base = tensors(Merger(parents).apply(Recipe.single(family.base)))
        for density in (0.3, 0.6):
            recipe = Recipe.parse(loose.replace("density: 0.5", f"density: {density}"))
            merged = tensors(Merger(parents).apply(recipe))
            kept.append({name: merged[name] != base[name] for name in base})
    assert all(bool((kept[1][name] | ~kept[0][name]).all()) for name in kept[0])


def test_a_nan_in_a_parent_fails_by_the_tensors_name(family: Family, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(family.a).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    recipe = Recipe.parse(text(family).replace(family.a, str(broken)))
    with ParentSet.open(recipe) as parents, pytest.raises(NonFiniteTensor, match=r"layers\.1\.mlp\.up_proj") as caught:
        Merger(parents).apply(recipe)
    assert caught.value.tensor == "model.layers.1.mlp.up_proj.weight"


def test_directions_that_cancel_out_fail_by_the_tensors_name(family: Family, tmp_path: Path) -> None:
    same = [str(shutil.copytree(family.base, tmp_path / name)) for name in "abc"]
    models = ", ".join(f"{{model: {model}, parameters: {{weight: 1.0}}}}" for model in same)
    recipe = Recipe.parse(f"merge_method: multislerp\nbase_model: {family.base}\nmodels: [{models}]\n")
    message = r"^tensor model\.embed_tokens\.weight cannot be merged \(method multislerp\): .* cancel out"
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=message):
        Merger(parents).apply(recipe)


def test_after_a_failed_candidate_the_next_one_is_whole(family: Family) -> None:
    good, bad = Recipe.parse(text(family)), Recipe.parse(text(family) + "parameters: {lambda: 1.0e+45}\n")
    with ParentSet.open(good) as parents:
        merger = Merger(parents)
        expected = tensors(merger.apply(good))
        with pytest.raises(NonFiniteTensor):
            merger.apply(bad)
        assert equal(expected, tensors(merger.apply(good)))


def test_the_depth_of_the_model_follows_the_recipe(family: Family) -> None:
    stack = Recipe.parse(
        f"""
merge_method: passthrough
slices:
- sources: [{{model: {family.a}, layer_range: [0, 2]}}]
- sources: [{{model: {family.b}, layer_range: [0, 3]}}]
"""
    )
    with ParentSet.open([stack, Recipe.single(family.a)]) as parents:
        merger = Merger(parents)
        deep = merger.apply(stack)
        assert deep.config.num_hidden_layers == 5
        own = load_file(Path(family.b) / "model.safetensors")
        assert torch.equal(
            deep.state_dict()["model.layers.2.mlp.up_proj.weight"], own["model.layers.0.mlp.up_proj.weight"]
        )
        assert merger.apply(Recipe.single(family.a)).config.num_hidden_layers == 3


def test_an_interrupted_merge_writes_no_more_and_gives_torch_its_threads_back(family: Family) -> None:
    recipe = Recipe.parse(text(family))
    threads = torch.get_num_threads()

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        with pytest.raises(KeyboardInterrupt):
            merger.apply(recipe, progress=interrupt)
        assert torch.get_num_threads() == threads
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("merge")]
        whole = tensors(Merger(parents).apply(recipe))
        assert equal(whole, tensors(merger.apply(recipe)))


def test_progress_counts_every_tensor_and_ends_whole(family: Family) -> None:
    first, second = Recipe.parse(text(family)), Recipe.parse(text(family, weight=0.9))
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        for recipe in (first, second):
            progress = Mock()
            merger.apply(recipe, progress)
            steps = len(merger.steps(recipe))
            assert progress.call_args_list == [call(done, steps) for done in range(1, steps + 1)]


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_every_tensor_and_every_parent_has_a_mask_of_its_own(make_model: ModelMaker, method: str) -> None:
    # Of a base of zeros and parents of ones (and twos) the merge shows which elements were kept of which.
    folders = [Path(make_model(name)) for name in ("base", "one", "two")]
    for value, folder in enumerate(folders):
        stored = load_file(folder / "model.safetensors")
        filled = {name: torch.full_like(tensor, value) for name, tensor in stored.items()}
        save_file(filled, folder / "model.safetensors", metadata={"format": "pt"})
    more = ", epsilon: 0.1" if method == "della_linear" else ""
    recipe = Recipe.parse(f"""
merge_method: {method}
base_model: {folders[0]}
models: [{{model: {folders[1]}}}, {{model: {folders[2]}}}]
parameters: {{density: 0.5, weight: 1, rescale: false, normalize: false{more}}}
""")
    with ParentSet.open(recipe) as parents:
        merged = tensors(Merger(parents).apply(recipe))
    masks = [tensor.flatten()[:512] for tensor in merged.values() if tensor.numel() >= 512]
    kept = [[mask % 2 == 1, mask >= 2] for mask in masks]
    every = [mask for both in kept for mask in both]
    assert len(every) > 20
    for index, mask in enumerate(every):
        assert 0.3 < mask.float().mean() < 0.7
        # Masks that are independent agree in about half of their elements.
        assert all(0.3 < (mask == other).float().mean() < 0.7 for other in every[index + 1 :])


def test_a_merger_with_another_seed_merges_as_one_that_began_with_it(family: Family) -> None:
    recipe = Recipe.parse(text(family, "dare_ties"))
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents, random_seed=7)
        first = tensors(merger.apply(recipe))
        merger.random_seed = 8
        assert equal(tensors(merger.apply(recipe)), tensors(Merger(parents, random_seed=8).apply(recipe)))
        merger.random_seed = 7
        assert equal(tensors(merger.apply(recipe)), first)


@pytest.mark.parametrize("source", ["", "tokenizer_source: union"])
def test_a_candidate_looks_for_no_model_again(family: Family, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    first, second = (Recipe.parse(text(family, weight=weight) + source) for weight in (0.5, 0.9))
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        merger.apply(first)
        tokenizer = merger.tokenizer(first)
        for module in ("tokenizers", "merged_tokenizer"):
            # What finds a model asks the hub where no folder on this machine has its name.
            monkeypatch.setattr(f"merging.tokenization.{module}.locate", Mock(side_effect=AssertionError))
        merger.apply(second)
        assert merger.tokenizer(second) is tokenizer


@pytest.mark.parametrize("method", every(5, NAMES))
def test_what_a_merge_reads_is_freed_at_once(family: Family, method: str) -> None:
    """A tensor in a reference cycle stays until Python looks for cycles: of an adapter or on a GPU, it has a copy."""
    recipe = Recipe.parse(recipes(family, "bfloat16")[method])
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        gc.collect()
        gc.disable()
        try:
            merger.apply(recipe)
            assert not [each for each in gc.get_objects() if isinstance(each, StepOperands)]
        finally:
            gc.enable()


def test_closed_parents_hold_nothing(family: Family) -> None:
    recipe = Recipe.parse(text(family))
    with ParentSet.open(recipe) as parents:
        Merger(parents).apply(recipe)
        computed = Mock(return_value=1)
        parents.statistics.once("x", computed)
    parents.statistics.once("x", computed)
    assert computed.call_count == 2


@pytest.mark.parametrize(
    ("method", "weights", "switch"),
    [
        ("linear", (1.0, -1.0), "normalize"),
        ("linear", (0.0, 0.0), "normalize"),
        ("linear", ([1.0, 0.5], [1.0, -0.5]), "normalize"),
        ("multislerp", (0.5, -0.5), "normalize_weights"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_weights_that_sum_to_zero_are_named_as_the_cause(
    family: Family, method: str, weights: tuple[object, object], switch: str, compiled: bool
) -> None:
    models = [
        {"model": each, "parameters": {"weight": weight}}
        for each, weight in zip((family.a, family.b), weights, strict=True)
    ]
    recipe = Recipe.from_dict({"merge_method": method, "models": models, "dtype": "bfloat16"}, "test")
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError) as caught:
        Merger(parents, kernels=NativeKernels() if compiled else EAGER).apply(recipe)
    assert not isinstance(caught.value, NonFiniteTensor)
    assert f"(method {method}): the weights sum to zero, and {switch} divides by their sum; change" in str(caught.value)
