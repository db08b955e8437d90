"""Output heads of their own and heads that are the embedding, in stacks of slices: whose head the merge has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from merging import Merger, MergingError, ParentSet, Recipe, export_model
from tests.merging.oracle import mergekit_merge
from tests.tiny import TinyModel, save_tiny_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KINDS = {"tied": True, "untied": False, "tied too": True, "untied too": False}


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models of one architecture, by whether their heads are tied."""
    folder = tmp_path_factory.mktemp(request.param)
    options: dict[str, Any] = {"architecture": request.param, "dtype": "float32"}
    return {
        name: save_tiny_model(folder / name.replace(" ", "-"), TinyModel(seed=seed, tied=tied, **options))
        for seed, (name, tied) in enumerate(KINDS.items())
    }


def stacked(models: dict[str, str], *names: str, base: str | None = None) -> str:
    """Return a recipe that stacks layers of these models; with a base each is merged with it."""
    also = f", {{model: {models[base]}, layer_range: [0, 2]}}" if base else ""
    slices = "".join(f"- sources: [{{model: {models[name]}, layer_range: [1, 3]}}{also}]\n" for name in names)
    if base is None:
        return f"merge_method: passthrough\nslices:\n{slices}"
    return f"merge_method: task_arithmetic\nbase_model: {models[base]}\nslices:\n{slices}parameters: {{weight: 0.5}}\n"


def exported(text: str, folder: Path) -> dict[str, Tensor]:
    """Export a merge, check that a reload has all that the live model has, and return what the file holds."""
    recipe = Recipe.parse(text)
    export_model(recipe, folder)
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe).state_dict()
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(tensor, live[name]) for name, tensor in loaded.state_dict().items())
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("names", "base", "has_head"),
    [
        (("tied", "tied too"), None, False),
        (("untied", "untied too"), None, True),
        (("untied", "tied", "untied too"), None, True),
        (("tied", "untied", "tied too"), None, False),
        (("tied", "untied too"), "untied", True),
        (("tied too", "tied too"), "tied", False),
        (("untied too", "tied"), "untied", True),
    ],
)
def test_a_stack_has_the_head_that_mergekit_gives_it(
    models: dict[str, str], names: tuple[str, ...], base: str | None, has_head: bool, tmp_path: Path
) -> None:
    text = stacked(models, *names, base=base)
    ours = exported(text, tmp_path / "merged")
    assert (HEAD in ours) == has_head
    theirs = mergekit_merge(text)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name


def test_the_head_after_a_tied_models_layers_is_its_embedding(models: dict[str, str], tmp_path: Path) -> None:
    text = stacked(models, "untied", "tied")
    assert HEAD not in mergekit_merge(text)  # so that transformers would fill it with random numbers
    ours = exported(text, tmp_path / "merged")
    assert torch.equal(ours[HEAD], load_file(Path(models["tied"]) / "model.safetensors")[EMBEDDING])
    assert torch.equal(ours[EMBEDDING], load_file(Path(models["untied"]) / "model.safetensors")[EMBEDDING])


@pytest.mark.parametrize(
    ("names", "base"), [(("tied", "untied"), None), (("untied", "tied too"), "tied"), (("tied too", "untied"), "tied")]
)
def test_a_head_that_would_be_lost_is_refused(models: dict[str, str], names: tuple[str, ...], base: str | None) -> None:
    recipe = Recipe.parse(stacked(models, *names, base=base))
    message = f"model {models['untied']}: has an output head of its own, but that of {models['tied']} is tied"
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError, match=message):
        Merger(parents).plan(recipe)
