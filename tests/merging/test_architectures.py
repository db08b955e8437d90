"""Architectures whose layers have different tensors, or that have several stacks of layers: whole, and in stacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3Config

from merging import METHODS, Merger, MergingError, ParentSet, Recipe, export_model
from tests.merging.conftest import Family
from tests.merging.kinds import CONV, FULL, KINDS, LINEAR, SLIDING, in_live_layout, make_kind
from tests.merging.oracle import mergekit_merge
from tests.merging.zoo import Zoo, every_parent
from tests.parametrization import every
from tests.tiny import byte_tokenizer

TOKENS = torch.arange(12)[None]
# mergekit's own definitions of these name the tensors as files have them.
BY_FILES = ("granitemoehybrid",)


def most_are_slow(architectures: Iterable[str]) -> list[ParameterSet]:
    """Return the architectures for a parametrization; two of them are in the default suite."""
    return [
        pytest.param(name, marks=[] if name in ("lfm2", "deepseek_v3") else [pytest.mark.slow])
        for name in architectures
    ]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """Families, made when they are first asked for."""

    class Made(dict[str, Family]):
        def __missing__(self, architecture: str) -> Family:
            self[architecture] = make_kind(tmp_path_factory.mktemp(architecture), architecture)
            return self[architecture]

    return Made()


def ties(family: Family) -> str:
    """Return a recipe with gradients over the layers and a filter."""
    density = "[{filter: mlp, value: [0.3, 0.8]}, {value: 0.5}]"
    models = "".join(
        f"- {{model: {model}, parameters: {{weight: {weight}, density: {density}}}}}\n"
        for model, weight in ((family.a, [0.2, 0.9]), (family.b, [0.7, 0.1, 0.5]))
    )
    return f"merge_method: ties\nbase_model: {family.base}\nmodels:\n{models}dtype: float32\n"


def stack(*layers: tuple[str, int]) -> Recipe:
    """Return a recipe that stacks layers of models."""
    slices = "".join(f"- sources: [{{model: {model}, layer_range: [{i}, {i + 1}]}}]\n" for model, i in layers)
    return Recipe.parse(f"merge_method: passthrough\nslices:\n{slices}")


def alternating(family: Family, *indices: int) -> Recipe:
    """Return a stack of these layers, of two models in turn."""
    return stack(*((family.b if place % 2 else family.a, index) for place, index in enumerate(indices)))


def check_export(recipe: Recipe, folder: Path) -> Any:
    """Check that an export, loaded as anyone would, is the live model, and return it."""
    with ParentSet.open(recipe) as parents:
        live: Any = Merger(parents).apply(recipe)
    export_model(recipe, folder)
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    ours = live.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == ours[name].dtype, name
        assert torch.equal(tensor, ours[name]), name
    with torch.inference_mode():
        assert torch.equal(loaded(TOKENS).logits, live(TOKENS).logits)
    return loaded


@pytest.mark.parametrize("architecture", most_are_slow(KINDS))
def test_models_whose_layers_are_not_alike_are_merged_as_mergekit_does(
    families: dict[str, Family], architecture: str, tmp_path: Path
) -> None:
    family = families[architecture]
    merged = check_export(Recipe.parse(ties(family)), tmp_path / "merged")
    read = family if architecture in BY_FILES else in_live_layout(family, tmp_path)
    theirs = mergekit_merge(ties(read), stable_sort=True)
    ours = {name: each for name, each in merged.state_dict().items() if name not in merged.all_tied_weights_keys}
    if architecture in BY_FILES:
        ours = load_file(tmp_path / "merged" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name


@pytest.mark.parametrize("method", every(4, (it.name for it in METHODS.values() if it.in_mergekit and not it.random)))
def test_every_method_merges_layers_of_two_kinds_as_mergekit_does(method: str, families: dict[str, Family]) -> None:
    family = families["lfm2"]
    with ParentSet.open(every_parent(family)) as parents:
        text = Zoo("llama", family, parents).recipe(method, "float32")
        ours = Merger(parents).apply(Recipe.parse(text)).state_dict()
    for name, expected in mergekit_merge(text, stable_sort=True).items():
        assert (ours[name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name


def test_a_layer_beyond_the_last_that_transformers_does_not_load_is_left_out(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family = families["deepseek_v3"]
    folder = shutil.copytree(family.a, tmp_path / "a")
    stored = load_file(folder / "model.safetensors")
    # DeepSeek-V3's own depth: its files hold a layer 61 that predicts a further token.
    further = {"model.layers.61.eh_proj.weight": torch.ones(32, 64)}
    save_file(stored | further, folder / "model.safetensors", {"format": "pt"})
    recipe = Recipe.average([str(folder), family.b])
    export_model(recipe, tmp_path / "merged")
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == stored.keys()
    save_file(
        stored | {"model.layers.4.eh_proj.weight": torch.ones(32, 64)}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(MergingError, match="its files hold 5 layers, but its config says 4"):
        ParentSet.open(recipe)


def test_a_tensor_of_one_kind_of_layers_that_is_missing_is_named(families: dict[str, Family], tmp_path: Path) -> None:
    folder = shutil.copytree(families["lfm2"].a, tmp_path / "a")
    stored = load_file(folder / "model.safetensors")
    del stored["model.layers.2.conv.in_proj.weight"]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergingError, match=r"a: has no tensor model\.layers\.2\.conv\.in_proj\.weight, which"):
        ParentSet.open(Recipe.single(str(folder)))


# --- stacks ----------------------------------------------------------------------------------------------------------

STACKED: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "bamba": ((0, 1, 2, 1, 3), {"attn_layer_indices": [1, 3]}),
    "deepseek_v3": ((0, 0, 1, 2, 1, 3), {"first_k_dense_replace": 2}),
    "ernie4_5_moe": ((0, 1, 2, 1, 2, 3), {"moe_layer_start_index": 1, "moe_layer_end_index": 5}),
    "gemma4_text": ((1, 0, 2, 3, 3), {"layer_types": [FULL, SLIDING, SLIDING, FULL, FULL]}),
    "glm4_moe": ((1, 2, 1, 3), {"first_k_dense_replace": 0}),
    "jamba": ((0, 1, 2, 1, 2, 3), {"attn_layer_period": 2}),
    "lfm2": ((1, 0, 2), {"layer_types": [FULL, CONV, CONV]}),
    "lfm2_moe": ((0, 1, 0, 2, 3), {"num_dense_layers": 3, "layer_types": [CONV, FULL, CONV, CONV, FULL]}),
    "llama4_text": ((0, 1, 3), {"moe_layers": [1, 2], "no_rope_layers": [1, 1, 0]}),
    "nemotron_h": ((0, 1, 2, 1, 3), {"layers_block_type": [LINEAR, FULL, "moe", FULL, LINEAR]}),
    "qwen2_moe": ((1, 0, 2), {"mlp_only_layers": [1, 2]}),
    "qwen3_next": ((1, 0, 2, 0), {"mlp_only_layers": [1, 3], "layer_types": [FULL, LINEAR, LINEAR, LINEAR]}),
    "zamba2": ((0, 1, 3), {"layers_block_type": [LINEAR, "hybrid", "hybrid"], "hybrid_layer_ids": [1, 2]}),
}


@pytest.mark.parametrize("architecture", most_are_slow(STACKED))
def test_what_a_config_says_of_layers_follows_them(
    families: dict[str, Family], architecture: str, tmp_path: Path
) -> None:
    indices, expected = STACKED[architecture]
    family = families[architecture]
    merged = check_export(alternating(family, *indices), tmp_path / "merged")
    values = merged.config.to_dict()
    assert {key: values[key] for key in expected} == expected
    assert merged.config.num_hidden_layers == len(indices)
    parents = [AutoModelForCausalLM.from_pretrained(model).state_dict() for model in (family.a, family.b)]
    for name, tensor in merged.state_dict().items():
        place = next((part for part in name.split(".") if part.isdigit()), None)
        if place is not None:
            source = parents[int(place) % 2]
            assert torch.equal(tensor, source[name.replace(f".{place}.", f".{indices[int(place)]}.", 1)]), name


def test_a_stack_of_two_kinds_is_mergekits(families: dict[str, Family], tmp_path: Path) -> None:
    family = families["lfm2"]
    text = f"""
merge_method: ties
base_model: {family.base}
slices:
- sources:
  - {{model: {family.a}, layer_range: [0, 2], parameters: {{weight: [0.2, 0.9]}}}}
  - {{model: {family.base}, layer_range: [2, 4]}}
- sources:
  - {{model: {family.b}, layer_range: [1, 4]}}
  - {{model: {family.base}, layer_range: [1, 4]}}
  parameters: {{density: [0.9, 0.3]}}
parameters: {{weight: 0.6, density: 0.5}}
dtype: float32
"""
    merged = check_export(Recipe.parse(text), tmp_path / "merged")
    assert merged.config.layer_types == [CONV, FULL, FULL, CONV, FULL]
    ours, theirs = merged.state_dict(), mergekit_merge(text, stable_sort=True)
    # mergekit counts this final norm among what comes before the layers, and makes it of the first slice.
    del theirs["model.embedding_norm.weight"]
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name


def test_models_of_one_architecture_whose_layers_are_of_other_kinds_are_stacked(tmp_path: Path) -> None:
    one = make_kind(tmp_path / "one", "lfm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "lfm2", lambda **values: KINDS_LFM2(**values | {"layer_types": [FULL, FULL, CONV, FULL]}))
        other = make_kind(tmp_path / "other", "lfm2")
    merged = check_export(stack((one.a, 0), (other.a, 0), (other.b, 2), (one.b, 1)), tmp_path / "merged")
    assert merged.config.layer_types == [CONV, FULL, CONV, FULL]
    with (
        ParentSet.open(Recipe.average([one.a, other.a])) as parents,
        pytest.raises(
            MergingError, match=r"model .*/other/a: has no model\.layers\.0\.conv\.conv\.weight, but .*/one/a"
        ),
    ):
        Merger(parents).steps(Recipe.average([one.a, other.a]))


KINDS_LFM2 = KINDS["lfm2"]
REFUSED = {
    "jamba": ((0, 1, 3), "layer 3 of .*/a has a tensor .* attn_layer_offset, attn_layer_period, expert_layer_offset"),
    "recurrent_gemma": ((1, 0), "layer 1 of .*/a has a tensor .* by block_types in its config"),
    "deepseek_v3": ((1, 0), r"layer 1 of .*/a has a tensor .*experts.* has no tensor .*by first_k_dense_replace in"),
    "lfm2_moe": ((0, 1, 2, 1), "layer 1 of .*/b has a tensor .* by num_dense_layers in its config; stack layers"),
    "zamba2": ((0, 1, 2, 1, 2, 3), "layer 1 of .*/b .* by the number of layers in its config"),
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_a_stack_that_no_config_can_describe_is_refused_by_the_key_that_decides(
    families: dict[str, Family], architecture: str
) -> None:
    indices, message = REFUSED[architecture]
    recipe = alternating(families[architecture], *indices)
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=f"slices: {message}"):
        Merger(parents).steps(recipe)


def test_a_table_with_a_part_for_each_layer_is_merged_whole_or_not(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        own = KINDS["gemma4_text"]
        patch.setitem(KINDS, "gemma4_text", lambda **values: own(**values | {"hidden_size_per_layer_input": 8}))
        family = make_kind(tmp_path / "family", "gemma4_text")
    check_export(Recipe.parse(ties(family)), tmp_path / "merged")
    recipe = alternating(family, 0, 1, 2)
    message = r"a tensor of shape \[263, 32\] model\.embed_tokens_per_layer\.weight, .* 3 layers has .* \[263, 24\]"
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=f"{message}; .*merge such models whole"):
        Merger(parents).steps(recipe)


@pytest.mark.parametrize(("first", "second", "tensor"), [("lfm2", 1, "conv"), ("gemma4_text", 1, "q_proj")])
def test_layers_of_two_kinds_are_not_merged_with_one_another(
    families: dict[str, Family], first: str, second: int, tensor: str
) -> None:
    family = families[first]
    recipe = Recipe.parse(
        f"merge_method: linear\nslices:\n- sources:\n  - {{model: {family.a}, layer_range: [0, 1]}}\n"
        f"  - {{model: {family.b}, layer_range: [{second}, {second + 1}]}}\nparameters: {{weight: 0.5}}\n"
    )
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=f"{tensor}.*only layers of one kind"):
        Merger(parents).steps(recipe)


# --- several stacks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A Gemma 3 family that sees: two layers of a vision tower, three of the language model."""
    folder = tmp_path_factory.mktemp("gemma3")
    tokenizer = byte_tokenizer()
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16,
            "layer_types": [SLIDING, FULL, FULL],
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        mm_tokens_per_image=4, image_token_index=250, boi_token_index=251, eoi_token_index=252,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        for seed, name in enumerate(("base", "a", "b")):
            torch.manual_seed(seed)
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return Family(*(str(folder / name) for name in ("base", "a", "b")))


TOWER, DECODER = "vision_tower.encoder.layers", "language_model.model.layers"


def stored(model: str | Path) -> dict[str, Tensor]:
    """Return what a model's file holds."""
    return load_file(Path(model) / "model.safetensors")


def test_each_stack_of_a_model_has_the_gradient_over_its_own_layers(seeing: Family, tmp_path: Path) -> None:
    models = "".join(
        f"- {{model: {model}, parameters: {{weight: {weight}}}}}\n"
        for model, weight in ((seeing.a, [0.0, 1.0]), (seeing.b, [1.0, 0.0]))
    )
    check_export(Recipe.parse(f"merge_method: linear\nmodels:\n{models}"), tmp_path / "merged")
    a, b = stored(seeing.a), stored(seeing.b)
    depths = {TOWER: 2, DECODER: 3}
    for name, tensor in stored(tmp_path / "merged").items():
        head = next((head for head in depths if name.startswith(head)), None)
        t = int(name[len(head) + 1 :].partition(".")[0]) / (depths[head] - 1) if head else 0.0
        torch.testing.assert_close(tensor, t * a[name] + (1 - t) * b[name], msg=name)


def test_modules_give_each_stack_its_own_slices(seeing: Family, tmp_path: Path) -> None:
    text = f"""
merge_method: passthrough
modules:
  default: {{models: [{{model: {seeing.a}}}]}}
  {TOWER}: {{models: [{{model: {seeing.b}}}]}}
  {DECODER}:
    slices:
    - sources: [{{model: {seeing.a}, layer_range: [0, 2]}}]
    - sources: [{{model: {seeing.b}, layer_range: [0, 3]}}]
    parameters: {{scale: 0.5}}
"""
    merged = check_export(Recipe.parse(text), tmp_path / "merged")
    assert merged.config.text_config.layer_types == [SLIDING, FULL, SLIDING, FULL, FULL]
    assert merged.config.vision_config.num_hidden_layers == 2
    ours, a, b = stored(tmp_path / "merged"), stored(seeing.a), stored(seeing.b)
    q = "self_attn.q_proj.weight"
    assert torch.equal(ours[f"{DECODER}.1.{q}"], a[f"{DECODER}.1.{q}"] * 0.5)
    assert torch.equal(ours[f"{DECODER}.4.{q}"], b[f"{DECODER}.2.{q}"] * 0.5)
    assert torch.equal(ours[f"{TOWER}.1.{q}"], b[f"{TOWER}.1.{q}"])
    assert torch.equal(ours["language_model.model.norm.weight"], a["language_model.model.norm.weight"])


def test_a_model_of_several_stacks_says_what_its_modules_are(seeing: Family) -> None:
    whole = f"{{models: [{{model: {seeing.a}}}]}}"
    cut = f"{{slices: [{{sources: [{{model: {seeing.a}, layer_range: [0, 1]}}]}}]}}"
    modules = f"default: {whole}, {DECODER}: {whole}"
    wrong = {
        f"slices: [{{sources: [{{model: {seeing.a}, layer_range: [0, 1]}}]}}]": r"slices: .* under modules \(default, ",
        f"modules: {{{modules}}}": rf"modules: the model's are 'default', '{TOWER}', '{DECODER}', but the recipe has ",
        f"modules: {{{modules}, {TOWER}: {cut}}}": rf"modules\.{TOWER}: uses the layers \[0\] of 2; ",
    }
    with ParentSet.open(Recipe.single(seeing.a)) as parents:
        for text, message in wrong.items():
            with pytest.raises(MergingError, match=message):
                Merger(parents).steps(Recipe.parse(f"merge_method: passthrough\n{text}\n"))
