"""A live model of 16 bits that computes in float32 holds the numbers of the export, and computes what that does."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GptOssConfig

from merging import MergeOptions, Merger, ParentSet, Recipe, export_model
from merging.kernels import EAGER, Kernels
from merging.kernels.compiled import CompiledKernels
from merging.kernels.native import NativeKernels
from tests.merging.conftest import Family, make_family
from tests.merging.kinds import KINDS, make_kind
from tests.merging.recipes import recipes

TOKENS = torch.arange(12)[None]
KERNELS = {"torch": lambda: EAGER, "C": NativeKernels, "functions": lambda: CompiledKernels(partial)}
METHODS = (
    "ties",
    "ties, negative weights",
    "dare_linear, density 1",
    "linear",
    "slerp",
    "passthrough",
    "slices",
    "out_dtype",
)


def in_float32(recipe: Recipe, kernels: Kernels = EAGER) -> Any:
    """Return the live model of a recipe, computing in float32."""
    with ParentSet.open(recipe) as parents:
        return Merger(parents, kernels=kernels, compute_dtype=torch.float32).apply(recipe)


def load(folder: Path) -> Any:
    """Return what transformers loads of a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder).float()


def check(live: Any, loaded: Any) -> None:
    """Check that a live model is another one in float32."""
    assert live.dtype == live.config.dtype == live.config.get_text_config().dtype == torch.float32
    ours = live.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert ours[name].dtype == torch.float32, name
        assert torch.equal(ours[name], tensor), name
    with torch.inference_mode():
        assert torch.equal(live(TOKENS).logits, loaded(TOKENS).logits)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A float16 family whose head is its embedding."""
    return make_family(tmp_path_factory.mktemp("half"), dtype="float16", tied=True)


def by_kind() -> list[ParameterSet]:
    """Return every kind of models and method; by default some methods, and of float16 one."""
    often = {*(("family", method) for method in ("ties", "linear", "slices", "out_dtype")), ("half", "slices")}
    pairs = product(("family", "half"), METHODS)
    return [pytest.param(*pair, marks=[] if pair in often else [pytest.mark.slow]) for pair in pairs]


@pytest.mark.parametrize(("kind", "method"), by_kind())
def test_it_is_the_exported_model_widened(
    method: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    family: Family = request.getfixturevalue(kind)
    recipe = Recipe.parse(recipes(family, "bfloat16" if kind == "family" else "float16")[method])
    export_model(recipe, tmp_path / "merged", MergeOptions(compile=False))
    loaded = load(tmp_path / "merged")
    for kernels in KERNELS.values():
        check(in_float32(recipe, kernels()), loaded)


@pytest.mark.parametrize("stored", ["norm", "mlp"])
def test_what_files_hold_in_more_bits_than_the_model_is_rounded_as_loading_rounds_it(
    stored: str, tmp_path: Path
) -> None:
    folders = make_family(tmp_path / "mixed")
    for model in (folders.a, folders.b):
        tensors = load_file(Path(model) / "model.safetensors")
        tensors |= {name: tensor.float() * 1.001 for name, tensor in tensors.items() if stored in name}
        save_file(tensors, Path(model) / "model.safetensors", metadata={"format": "pt"})
    recipe = Recipe.parse(recipes(folders, "bfloat16")["linear"].replace("\ndtype: bfloat16", ""))
    export_model(recipe, tmp_path / "merged")
    with ParentSet.open(recipe) as parents:
        own = Merger(parents).apply(recipe)
    widened: dict[str, Tensor] = in_float32(recipe).state_dict()
    # As scored in the recipe's dtype, and as transformers loads it.
    assert all(torch.equal(widened[name], tensor.float()) for name, tensor in own.state_dict().items())
    if own.dtype == torch.bfloat16:
        check(in_float32(recipe), load(tmp_path / "merged"))


@pytest.mark.parametrize("settings", ["", "dtype: float32\nout_dtype: float16\n", "dtype: float16\n"])
def test_what_transformers_keeps_in_float32_is_rounded_as_the_file(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "gpt_oss", partial(GptOssConfig, num_local_experts=4, head_dim=8))
    family = make_kind(tmp_path / "family", "gpt_oss", dtype="float16", layers=2)
    models = "".join(f"- {{model: {model}, parameters: {{weight: 0.3}}}}\n" for model in (family.a, family.b))
    recipe = Recipe.parse(f"merge_method: linear\nmodels:\n{models}{settings}")
    export_model(recipe, tmp_path / "merged")
    loaded = load(tmp_path / "merged")
    for kernels in KERNELS.values():
        check(in_float32(recipe, kernels()), loaded)


def test_the_next_candidate_is_written_into_the_same_tensors_and_an_overflow_is_noticed(half: Family) -> None:
    first = Recipe.parse(recipes(half, "float16")["task_arithmetic"])
    huge = first.model_copy(update={"parameters": {"lambda": 1e9}})
    with ParentSet.open(first) as parents:
        for kernels in (EAGER, NativeKernels()):
            merger = Merger(parents, kernels=kernels, compute_dtype=torch.float32)
            model = merger.apply(first)
            with pytest.raises(Exception, match="NaN or Inf"):
                merger.apply(huge)  # in float32 it would fit
            assert merger.apply(first) is model
            assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_compute_dtype_may_change_between_two_candidates_and_leaves_wider_models_alone(
    family: Family, float32_family: Family
) -> None:
    recipe, wide = (Recipe.single(each.a) for each in (family, float32_family))
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        assert merger.apply(recipe).dtype == torch.bfloat16
        merger.compute_dtype = torch.float32
        assert merger.apply(recipe).dtype == torch.float32
        assert merger._dtypes["lm_head.weight"] == torch.bfloat16
    assert torch.equal(
        in_float32(wide).lm_head.weight, load_file(Path(float32_family.a) / "model.safetensors")["lm_head.weight"]
    )


def test_layers_that_a_stack_repeats_share_their_memory(family: Family, tmp_path: Path) -> None:
    source = f"- sources: [{{model: {family.a}, layer_range: [0, 2]}}]\n"
    recipe = Recipe.parse(f"merge_method: passthrough\nslices:\n{source}{source}dtype: bfloat16\n")
    export_model(recipe, tmp_path / "merged")
    live = in_float32(recipe)
    check(live, load(tmp_path / "merged"))
    first, third = (live.model.layers[index].mlp.up_proj.weight for index in (0, 2))
    assert first.data_ptr() == third.data_ptr()


@pytest.mark.parametrize("architecture", ["gemma3n_text", "jamba", "llama4_text"])
def test_models_that_scale_or_keep_states_compute_as_when_loaded(architecture: str, tmp_path: Path) -> None:
    family = make_kind(tmp_path / "family", architecture, dtype="bfloat16")
    recipe = Recipe.average([family.a, family.b], "bfloat16")
    export_model(recipe, tmp_path / "merged")
    check(in_float32(recipe), load(tmp_path / "merged"))
