"""Files of several dtypes: what an export holds is mergekit's, what is scored is what a reload of the export has."""

from __future__ import annotations

import shutil
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GptOssConfig

from merging import Merger, ParentSet, Recipe, export_model, load_model
from tests.merging.conftest import Family, make_family
from tests.merging.kinds import KINDS, make_kind
from tests.merging.oracle import mergekit_folder, mergekit_merge
from tests.merging.recipes import recipes
from tests.parametrization import every

TOKENS = torch.arange(12)[None]
METHODS = ("ties", "task_arithmetic", "slerp", "linear", "passthrough", "slices", "out_dtype")


def stored(model: str | Path) -> dict[str, Tensor]:
    """Return what a model's file holds."""
    return load_file(Path(model) / "model.safetensors")


def widen(model: str, part: str) -> None:
    """Store the tensors with this in their name in float32, with numbers that need it."""
    tensors = stored(model)
    tensors |= {name: tensor.float() * 1.001 for name, tensor in tensors.items() if part in name}
    save_file(tensors, Path(model) / "model.safetensors", metadata={"format": "pt"})


def without_dtype(family: Family, method: str) -> str:
    """Return a recipe that leaves each tensor its dtype, unless it gives one to the output."""
    return recipes(family, "bfloat16")[method].replace("\ndtype: bfloat16", "")


@pytest.fixture(scope="module")
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A bfloat16 family that holds its norms in float32."""
    family = make_family(tmp_path_factory.mktemp("mixed"))
    for model in (family.base, family.a, family.b) if request.param == "in all parents" else (family.a,):
        widen(model, "norm")
    return family


def check_reload(recipe: Recipe, folder: Path) -> None:
    """Check that an export, however it is loaded, has the tensors and the scores of the live model."""
    with ParentSet.open(recipe) as parents:
        live: Any = Merger(parents).apply(recipe)
    ours = live.state_dict()
    for loaded in (AutoModelForCausalLM.from_pretrained(folder), load_model(str(folder))):
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == ours[name].dtype, name
            assert torch.equal(tensor, ours[name]), name
        with torch.inference_mode():
            assert torch.equal(loaded(TOKENS).logits, live(TOKENS).logits)


@pytest.mark.parametrize(
    ("mixed", "method"),
    every(
        3,
        [
            *zip(cycle(["in all parents", "in one parent"]), METHODS, strict=False),
            ("in one parent", "ties"),
            ("in all parents", "linear"),
        ],
    ),
    indirect=["mixed"],
)
def test_each_tensor_is_exported_in_the_dtype_that_mergekit_gives_it(
    mixed: Family, method: str, tmp_path: Path
) -> None:
    text = without_dtype(mixed, method)
    recipe = Recipe.parse(text)
    export_model(recipe, tmp_path / "merged")
    ours, theirs = stored(tmp_path / "merged"), mergekit_merge(text, stable_sort=True)
    assert {name: tensor.dtype for name, tensor in ours.items()} == {name: each.dtype for name, each in theirs.items()}
    for name, expected in theirs.items():
        relative = 1e-6 if expected.dtype == torch.float32 else 0.0
        assert (ours[name] - expected).abs().max() <= relative * expected.abs().max(), name
    check_reload(recipe, tmp_path / "merged")


@pytest.mark.parametrize("mixed", ["in all parents", "in one parent"], indirect=True)
def test_a_reload_of_mergekits_files_is_the_model_that_is_scored(mixed: Family, tmp_path: Path) -> None:
    text = without_dtype(mixed, "linear")
    theirs = AutoModelForCausalLM.from_pretrained(mergekit_folder(text, tmp_path / "theirs")).state_dict()
    with ParentSet.open(Recipe.parse(text)) as parents:
        ours = Merger(parents).apply(Recipe.parse(text)).state_dict()
    assert {name: each.dtype for name, each in theirs.items()} == {name: each.dtype for name, each in ours.items()}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_model_computes_in_the_dtype_that_most_of_it_is_stored_in(family: Family, tmp_path: Path) -> None:
    model = str(shutil.copytree(family.a, tmp_path / "a"))
    widen(model, "embed_tokens")
    recipe = Recipe.average([model, family.b])
    export_model(recipe, tmp_path / "merged")
    assert stored(tmp_path / "merged")["model.embed_tokens.weight"].dtype == torch.float32
    check_reload(recipe, tmp_path / "merged")
    assert load_model(str(tmp_path / "merged")).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("architecture", "dtype", "kept"),
    [("glm4_moe", "bfloat16", "mlp.gate.weight"), ("gpt_oss", "float16", "input_layernorm.weight")],
)
@pytest.mark.parametrize("settings", ["", "dtype: float32\nout_dtype: DTYPE\n", "dtype: DTYPE\n"])
def test_what_transformers_keeps_in_float32_is_rounded_as_the_file_and_kept_so(
    architecture: str, dtype: str, kept: str, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "gpt_oss", partial(GptOssConfig, num_local_experts=4, head_dim=8))
    family = make_kind(tmp_path / "family", architecture, dtype=dtype, layers=2)
    models = "".join(f"- {{model: {model}, parameters: {{weight: 0.3}}}}\n" for model in (family.a, family.b))
    text = f"merge_method: linear\nmodels:\n{models}{settings.replace('DTYPE', dtype)}"
    export_model(Recipe.parse(text), tmp_path / "merged")
    assert {tensor.dtype for tensor in stored(tmp_path / "merged").values()} == {getattr(torch, dtype)}
    check_reload(Recipe.parse(text), tmp_path / "merged")
    with ParentSet.open(Recipe.parse(text)) as parents:
        live = Merger(parents).apply(Recipe.parse(text)).state_dict()
    assert live[f"model.layers.1.{kept}"].dtype == torch.float32
