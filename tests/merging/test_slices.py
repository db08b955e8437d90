"""Stacks of slices: mergekit's bits, the kinds of the layers that were stacked, and one memory for what is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Gemma3TextConfig, MistralConfig, PreTrainedModel, SmolLM3Config

from merging import LoadOptions, MergeOptions, Merger, MergingError, ParentSet, Recipe, export_model, load_model
from tests.conftest import ModelMaker
from tests.merging.conftest import Family, make_family
from tests.merging.oracle import mergekit_layers, mergekit_merge
from tests.parametrization import every
from tests.tiny import CONFIGS, TinyModel, save_tiny_model

REPEATED = """
merge_method: passthrough
slices:
- sources: [{{model: {a}, layer_range: [0, 2]}}]
- sources: [{{model: {b}, layer_range: [0, 3], parameters: {{scale: [{{filter: o_proj, value: 0.5}}, {{value: 1}}]}}}}]
- sources: [{{model: {a}, layer_range: [1, 2], parameters: {{scale: 0.7}}}}]
- sources: [{{model: {a}, layer_range: [1, 3]}}]
"""
STACKS = {
    "repeated and interleaved layers": REPEATED,
    "a base and numbers for each slice": """
merge_method: ties
base_model: {base}
slices:
- sources:
  - {{model: {a}, layer_range: [0, 2], parameters: {{weight: [0.2, 0.9]}}}}
  - {{model: {base}, layer_range: [1, 3]}}
  parameters: {{density: 0.6, lambda: 0.8}}
- sources:
  - {{model: {a}, layer_range: [1, 3], parameters: {{weight: 0.3}}}}
  - {{model: {b}, layer_range: [0, 2], parameters: {{density: [0.9, 0.4]}}}}
  base_model: {b}
  residual_weight: 0.5
parameters: {{weight: 0.6, density: 0.5, normalize: false}}
""",
    "a base of one slice alone": """
merge_method: slerp
slices:
- sources: [{{model: {a}, layer_range: [0, 2]}}, {{model: {b}, layer_range: [1, 3]}}]
  base_model: {b}
  parameters: {{t: [{{filter: mlp, value: [0.1, 0.6]}}, {{value: 0.3}}]}}
- sources: [{{model: {a}, layer_range: [0, 1]}}, {{model: {b}, layer_range: [0, 1]}}]
  base_model: {a}
parameters: {{t: 0.8}}
""",
    "more sources in the last slice": """
merge_method: linear
slices:
- sources: [{{model: {a}, layer_range: [0, 2]}}]
- sources:
  - {{model: {b}, layer_range: [0, 3], parameters: {{weight: [0.5, 2.0]}}}}
  - {{model: {a}, layer_range: [0, 3]}}
parameters: {{weight: 0.4, normalize: false}}
""",
    "fewer sources in the last slice": """
merge_method: linear
slices:
- sources: [{{model: {b}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [1, 3]}}]
- sources: [{{model: {a}, layer_range: [0, 3]}}]
parameters: {{weight: 0.4, normalize: false}}
""",
    "a module of slices": """
merge_method: passthrough
modules:
  default:
    slices:
    - sources: [{{model: {b}, layer_range: [2, 3]}}]
    - sources: [{{model: {a}, layer_range: [0, 3]}}]
    parameters: {{scale: [{{filter: down_proj, value: [0.5, 1.5]}}, {{value: 1.0}}]}}
""",
}


def stack(family: Family, text: str, dtype: str = "bfloat16") -> str:
    """Return a recipe of a family's models."""
    return text.format(base=family.base, a=family.a, b=family.b) + f"dtype: {dtype}\n"


def tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def held(model: torch.nn.Module) -> int:
    """Return the bytes of memory that a model's parameters lie in."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def address(model: torch.nn.Module, layer: int, tail: str = "mlp.up_proj.weight") -> int:
    """Return where a tensor of a layer lies."""
    return model.get_parameter(f"model.layers.{layer}.{tail}").data_ptr()


@pytest.mark.parametrize("name", every(3, STACKS))
@pytest.mark.parametrize(("kind", "dtype"), [("family", "bfloat16"), ("float32_family", "float32")])
def test_a_stack_is_mergekits(name: str, kind: str, dtype: str, request: pytest.FixtureRequest) -> None:
    text = stack(request.getfixturevalue(kind), STACKS[name], dtype)
    recipe = Recipe.parse(text)
    with ParentSet.open(recipe) as parents:
        model = Merger(parents).apply(recipe)
        ours = tensors(model)
    theirs = mergekit_merge(recipe.to_yaml(), stable_sort=True)
    assert ours.keys() == theirs.keys()
    assert model.config.num_hidden_layers == mergekit_layers(text)
    tolerance = 0.0 if dtype == "bfloat16" else 1e-6
    for tensor, expected in theirs.items():
        assert (ours[tensor] - expected).abs().max() <= tolerance * expected.abs().max(), tensor


def test_the_tensors_after_the_layers_are_checked_with_the_sources_that_they_have(family: Family) -> None:
    text = f"""
merge_method: task_arithmetic
base_model: {family.base}
slices:
- sources: [{{model: {family.base}, layer_range: [0, 2]}}]
- sources: [{{model: {family.a}, layer_range: [0, 2]}}, {{model: {family.base}, layer_range: [1, 3]}}]
parameters: {{weight: 0.5}}
"""
    with pytest.raises(ValueError, match="Base input is not present"):
        mergekit_merge(text)
    with pytest.raises(MergingError, match=r"slices\[1\].sources: the base model .* after the layers use"):
        Recipe.parse(text)


@pytest.mark.parametrize("modules", ["decoder", "default, encoder"])
def test_a_module_that_a_language_model_has_not_is_refused(family: Family, modules: str) -> None:
    each = "".join(f"  {name}: {{models: [{{model: {family.a}}}]}}\n" for name in modules.split(", "))
    recipe = Recipe.parse(f"merge_method: passthrough\nmodules:\n{each}")
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=r"modules: .* single module 'default'"):
        Merger(parents).steps(recipe)


# --- kinds of layers -------------------------------------------------------------------------------------------------

FULL, SLIDING = "full_attention", "sliding_attention"


def write_config(model: str, **values: object) -> None:
    """Change a model's config.json."""
    file = Path(model) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def hybrid(tmp_path: Path) -> Family:
    """A Qwen2 family in which some layers see only a window, and not the same in all models."""
    family = make_family(tmp_path, architecture="qwen2", dtype="float32")
    for model, kinds in ((family.base, [FULL, SLIDING, FULL]), (family.a, [FULL, SLIDING, FULL])):
        write_config(model, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    write_config(family.b, layer_types=[SLIDING, SLIDING, FULL], use_sliding_window=True, sliding_window=4)
    return family


def test_layers_keep_their_kind_in_a_stack(hybrid: Family, tmp_path: Path) -> None:
    recipe = Recipe.parse(stack(hybrid, REPEATED, "float32"))
    export_model(recipe, tmp_path / "merged")
    loaded = load_model(str(tmp_path / "merged"))
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe)
    for model in (live, loaded):
        assert model.config.layer_types == [FULL, SLIDING, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL]
    tokens = torch.arange(24)[None]
    assert torch.equal(live(tokens).logits, loaded(tokens).logits)
    theirs = mergekit_merge(recipe.to_yaml())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in live.state_dict().items())


def test_a_merged_layer_is_of_the_bases_kind(hybrid: Family) -> None:
    text = """
merge_method: {method}
slices:
- sources: [{{model: {b}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [0, 2]}}]
  {base}
parameters: {{t: 0.5, weight: 0.5}}
"""
    kinds = {}
    for base in ("", f"base_model: {hybrid.a}"):
        recipe = Recipe.parse(text.format(method="linear", b=hybrid.b, a=hybrid.a, base=base))
        with ParentSet.open(recipe) as parents:
            kinds[bool(base)] = Merger(parents).apply(recipe).config.layer_types
    assert kinds == {False: [SLIDING, SLIDING], True: [FULL, SLIDING]}


def test_a_layer_whose_model_names_no_kinds_is_of_the_kind_that_the_config_source_has_there(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONFIGS, "mistral", MistralConfig)
    config_source, other = make_model("mistral", architecture="mistral"), make_model("llama", layers=4)
    write_config(config_source, layer_types=[FULL, SLIDING, SLIDING], sliding_window=4)
    recipe = Recipe.parse(
        f"merge_method: passthrough\nslices:\n- sources: [{{model: {config_source}, layer_range: [0, 1]}}]\n"
        f"- sources: [{{model: {other}, layer_range: [2, 4]}}]\n"
    )
    with ParentSet.open(recipe, MergeOptions(load=LoadOptions(allow_crimes=True))) as parents:
        assert Merger(parents).apply(recipe).config.layer_types == [FULL, SLIDING, FULL]


@pytest.mark.parametrize(
    ("architecture", "config", "lists"),
    [
        ("gemma3", Gemma3TextConfig, {"layer_types": [SLIDING, FULL, SLIDING]}),
        ("smollm3", SmolLM3Config, {"no_rope_layers": [1, 0, 1], "layer_types": [FULL, FULL, FULL]}),
    ],
)
def test_whatever_a_config_lists_by_layer_follows_the_stack(
    architecture: str,
    config: Callable[..., object],
    lists: dict[str, list[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONFIGS, architecture, config)
    model = save_tiny_model(tmp_path / "model", TinyModel(architecture=architecture, tied=architecture == "gemma3"))
    # Three ends of text in a model of three layers are not a list of its layers.
    write_config(model, **lists, eos_token_id=[257, 258, 259])
    recipe = Recipe.parse(
        f"merge_method: passthrough\nslices:\n- sources: [{{model: {model}, layer_range: [0, 2]}}]\n"
        f"- sources: [{{model: {model}, layer_range: [1, 3]}}]\n"
    )
    export_model(recipe, tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"))
    stacked = {key: [values[layer] for layer in (0, 1, 1, 2)] for key, values in lists.items()}
    assert {key: getattr(merged.config, key) for key in lists} == stacked
    assert merged.config.eos_token_id == [257, 258, 259]
    theirs = mergekit_merge(recipe.to_yaml())
    ours = merged.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


# --- one memory for what is repeated ---------------------------------------------------------------------------------


def thrice(family: Family, method: str = "ties", last: float = 0.5) -> Recipe:
    """Return a stack of a layer three times, the last of which has a weight of its own."""
    slices = "".join(
        f"- sources: [{{model: {family.a}, layer_range: [1, 2]}}, {{model: {family.base}, layer_range: [1, 2]}}]\n"
        f"  parameters: {{weight: {weight}}}\n"
        for weight in (0.5, 0.5, last)
    )
    return Recipe.parse(
        f"merge_method: {method}\nbase_model: {family.base}\nslices:\n{slices}parameters: {{density: 0.5}}\n"
    )


def unshared(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a merge that shares nothing: of the one on disk."""
    export_model(recipe, folder, MergeOptions(random_seed=7))
    return load_model(str(folder)).state_dict()


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "linear"])
def test_a_layer_that_is_repeated_is_held_and_written_once(family: Family, method: str, tmp_path: Path) -> None:
    recipe = thrice(family, method)
    written: list[int] = []
    with ParentSet.open(recipe) as parents:
        live = Merger(parents, random_seed=7).apply(recipe, lambda done, _: written.append(done))
        one = Recipe.parse(recipe.to_yaml()).model_copy(update={"slices": (recipe.slices or ())[:1]})
        single = Merger(parents).apply(one)
    assert live.config.num_hidden_layers == 3
    assert {address(live, layer) for layer in range(3)} == {address(live, 0)}
    assert held(live) == held(single)
    assert len(written) == len(single.state_dict())
    alone = unshared(recipe, tmp_path / "merged")
    assert all(torch.equal(tensor, alone[name]) for name, tensor in live.state_dict().items())


@pytest.mark.parametrize(("architecture", "tied"), [("gpt_neox", False), ("gemma", True), ("mixtral", False)])
def test_stacks_of_other_architectures_are_mergekits_and_share_as_well(
    architecture: str, tied: bool, tmp_path: Path
) -> None:
    text = stack(make_family(tmp_path, architecture=architecture, tied=tied), REPEATED)
    recipe = Recipe.parse(text)
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe)
        ours = {parents.architecture.layout.name_of(name): tensor for name, tensor in live.state_dict().items()}
    theirs = mergekit_merge(text)
    assert mergekit_layers(text) == live.config.num_hidden_layers == 8
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    # The second layer of the first slice and the first of the last are one layer of one model.
    seventh = {name: parameter for name, parameter in live.named_parameters(remove_duplicate=False) if ".6." in name}
    assert seventh
    for name, parameter in seventh.items():
        assert parameter.data_ptr() == live.get_parameter(name.replace(".6.", ".1.", 1)).data_ptr()


def test_layers_part_when_their_numbers_differ_and_join_again(family: Family, tmp_path: Path) -> None:
    same, other = thrice(family), thrice(family, last=0.9)
    with ParentSet.open([same, other]) as parents:
        merger = Merger(parents)
        model = merger.apply(same)
        together, first = held(model), tensors(model)
        assert merger.apply(other) is model
        layer = sum(p.nbytes for name, p in model.named_parameters() if ".layers.0." in name)
        assert held(model) == together + layer
        assert address(model, 0) == address(model, 1) != address(model, 2)
        alone = unshared(other, tmp_path / "merged")
        assert all(torch.equal(tensor, alone[name]) for name, tensor in model.state_dict().items())
        merger.apply(same)
        assert held(model) == together
        assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())


def test_any_order_of_candidates_gives_the_tensors_of_each_alone(family: Family) -> None:
    def recipe(*weights: float) -> Recipe:
        slices = "".join(
            f"- sources: [{{model: {family.a}, layer_range: [1, 2], parameters: {{scale: {weight}}}}}]\n"
            for weight in weights
        )
        return Recipe.parse(f"merge_method: passthrough\nslices:\n{slices}")

    patterns = [
        (1, 1, 1, 1),
        (2, 1, 1, 1),
        (2, 1, 2, 1),
        (1, 2, 2, 1),
        (1, 2, 3, 3),
        (1, 1, 3, 3),
        (1, 1),
        (3, 3, 3, 3),
    ]
    recipes = [recipe(*pattern) for pattern in patterns]
    with ParentSet.open(recipes) as parents:
        merger = Merger(parents)
        for each in recipes:
            alone = Merger(parents).apply(each).state_dict()
            assert all(torch.equal(tensor, alone[name]) for name, tensor in merger.apply(each).state_dict().items())


def decoded(model: PreTrainedModel, use_cache: bool) -> Tensor:
    """Return what a model says after two prompts of one length, and the scores of it."""
    prompts = torch.tensor([[5, 80, 7, 200], [9, 9, 31, 4]])
    out = model.generate(  # type: ignore[operator]
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=12, min_new_tokens=12, do_sample=False,
        use_cache=use_cache, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    return torch.cat([out.sequences.float(), torch.stack(out.scores, 1).flatten(1)], dim=1)


def test_layers_of_one_memory_have_places_of_their_own_in_the_cache(float32_family: Family, tmp_path: Path) -> None:
    recipe = thrice(float32_family)
    export_model(recipe, tmp_path / "merged")
    loaded = load_model(str(tmp_path / "merged"))
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe)
    assert [layer.self_attn.layer_idx for layer in live.model.layers] == [0, 1, 2]
    cached = decoded(live, use_cache=True)
    torch.testing.assert_close(cached, decoded(loaded, use_cache=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cached, decoded(live, use_cache=False), rtol=1e-4, atol=1e-5)


def test_a_model_is_built_anew_only_for_another_depth_or_other_kinds(hybrid: Family) -> None:
    def of(*layers: int, weight: float = 1.0) -> Recipe:
        sources = [f"[{{model: {hybrid.a}, layer_range: [{layer}, {layer + 1}]}}]" for layer in layers]
        slices = "".join(f"- sources: {each}\n" for each in sources)
        return Recipe.parse(f"merge_method: passthrough\nslices:\n{slices}parameters: {{scale: {weight}}}\n")

    with ParentSet.open(of(0)) as parents:
        merger = Merger(parents)
        first = merger.apply(of(0, 1, 2))
        assert merger.apply(of(0, 1, 0, weight=0.5)) is first  # layers 0 and 2 are of one kind
        assert merger.apply(of(2, 1, 0)) is first
        other = merger.apply(of(1, 1, 0))
        assert other is not first
        assert merger.apply(of(1, 1, 0, 2)) is not other
