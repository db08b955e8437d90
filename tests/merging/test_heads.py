"""Output heads of their own and heads that are the embedding: whose head a merge has, whole or in stacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from merging import Merger, ParentSet, Recipe, export_model
from tests.merging.oracle import mergekit_merge
from tests.parametrization import every
from tests.tiny import TinyModel, save_tiny_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KINDS = {"tied": True, "untied": False, "tied too": True, "untied too": False}


@pytest.fixture(scope="module", params=["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
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
    every(
        3,
        [
            (("tied", "tied too"), None, False),
            (("untied", "untied too"), None, True),
            (("untied", "tied", "untied too"), None, True),
            (("tied", "untied", "tied too"), None, False),
            (("tied", "untied too"), "untied", True),
            (("tied too", "tied too"), "tied", False),
            (("untied too", "tied"), "untied", True),
            (("tied", "untied"), None, True),
            (("untied", "tied too"), "tied", False),
            (("tied too", "untied"), "tied", True),
        ],
    ),
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


def whole(models: dict[str, str], method: str, names: tuple[str, ...], base: str | None) -> str:
    """Return a recipe that merges whole models; slerp goes from its base, which is one of them."""
    weights = (0.3, 0.5, 0.4)
    listed = [
        f"- {{model: {models[name]}, parameters: {{weight: {weight}, density: 0.7}}}}\n"
        for name, weight in zip(names, weights, strict=False)
    ]
    header = f"merge_method: {method}\n" + (f"base_model: {models[base]}\n" if base else "")
    shared = "parameters: {t: [{filter: lm_head, value: 0.8}, {value: 0.3}]}\n" if method == "slerp" else ""
    return f"{header}models:\n{''.join(listed)}{shared}dtype: float32\n"


@pytest.mark.parametrize(
    ("method", "names", "base", "has_head"),
    every(
        3,
        [
            ("linear", ("tied", "untied"), None, True),
            ("linear", ("untied", "tied"), None, True),
            ("linear", ("tied", "tied too"), None, False),
            ("ties", ("untied", "tied too"), "tied", True),
            ("ties", ("tied too", "untied"), "tied", True),
            ("task_arithmetic", ("untied too", "tied"), "untied", True),
            ("task_arithmetic", ("tied", "tied too"), "untied", True),
            ("model_stock", ("tied too", "untied"), "tied", True),
            ("slerp", ("tied", "untied"), "tied", True),
            ("slerp", ("tied", "untied"), "untied", True),
            ("slerp", ("tied", "tied too"), "tied", False),
            ("nuslerp", ("tied too", "untied"), "tied", True),
        ],
    ),
)
def test_tied_and_untied_models_merge_as_in_mergekit(
    models: dict[str, str], method: str, names: tuple[str, ...], base: str | None, has_head: bool, tmp_path: Path
) -> None:
    text = whole(models, method, names, base)
    ours = exported(text, tmp_path / "merged")
    assert (HEAD in ours) == has_head
    theirs = mergekit_merge(text, stable_sort=True)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_search_goes_from_tied_candidates_to_untied_ones_and_back(models: dict[str, str]) -> None:
    recipes = [Recipe.single(models["tied"]), Recipe.average([models["tied"], models["untied"]])]
    with ParentSet.open(recipes) as parents:
        merger = Merger(parents)
        for recipe in (*recipes, recipes[0]):
            live = merger.apply(recipe)
            alone = Merger(parents).apply(recipe).state_dict()
            assert all(torch.equal(tensor, alone[name]) for name, tensor in live.state_dict().items())
            head, embedding = live.get_output_embeddings().weight, live.get_input_embeddings().weight
            assert (head.data_ptr() == embedding.data_ptr()) == (recipe is recipes[0])
