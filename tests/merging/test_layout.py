"""Models that transformers holds otherwise than their files do are merged, exported and read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merging import ExportOptions, Merger, MergingError, ParentSet, Recipe, export_model
from tests.merging.conftest import Family, make_family
from tests.merging.oracle import mergekit_merge


@pytest.fixture(scope="session")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A Mixtral family: on disk an expert a tensor, live all experts of a layer in one."""
    return make_family(tmp_path_factory.mktemp("mixtral"), architecture="mixtral", layers=2)


def ties(base: str, *others: str) -> str:
    """Return a recipe whose trimming would differ between the whole and its pieces."""
    models = "".join(f"- {{model: {other}, parameters: {{weight: 0.7, density: 0.4}}}}\n" for other in others)
    return f"merge_method: ties\nbase_model: {base}\nmodels:\n{models}dtype: bfloat16\n"


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_neox", "gemma"])
def test_the_reopened_export_computes_what_the_live_model_does(tmp_path: Path, architecture: str) -> None:
    family = make_family(tmp_path, architecture=architecture, layers=2, tied=architecture == "gemma")
    recipe = Recipe.parse(ties(family.base, family.a, family.b))
    tokens = torch.randint(0, 255, (2, 9))
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe)
    export_model(recipe, tmp_path / "merged", files=ExportOptions(max_shard_size="40KB"))
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values())
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, live(tokens).logits)


def test_an_export_has_the_layout_of_its_parents_files(mixtral: Family, tmp_path: Path) -> None:
    export_model(Recipe.parse(ties(mixtral.base, mixtral.a)), tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert stored.keys() == load_file(Path(mixtral.base) / "model.safetensors").keys()
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in stored


def test_files_of_the_live_models_layout_merge_to_the_same(mixtral: Family, tmp_path: Path) -> None:
    # What mergekit 0.1.5 writes.
    folder = shutil.copytree(mixtral.a, tmp_path / "a")
    live = mergekit_merge(f"merge_method: passthrough\nmodels: [{{model: {mixtral.a}}}]\n")
    assert "model.layers.0.mlp.experts.gate_up_proj" in live
    save_file(
        {name: tensor.contiguous() for name, tensor in live.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    recipes = [Recipe.parse(ties(mixtral.base, one, mixtral.b)) for one in (mixtral.a, str(folder))]
    with ParentSet.open(recipes) as parents:
        one, other = (dict(Merger(parents).apply(recipe).state_dict()) for recipe in recipes)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_filter_means_the_tensors_that_mergekit_merges(mixtral: Family, tmp_path: Path) -> None:
    neox = make_family(tmp_path, architecture="gpt_neox", layers=1)
    for family, fits, fits_not in (
        (mixtral, "mlp.experts.gate_up_proj", "block_sparse_moe"),
        (neox, "embed_out", "lm_head"),
    ):
        text = f"merge_method: passthrough\nmodels: [{{model: {family.base}, parameters: {{scale: [SCALES]}}}}]\n"
        scales = f"{{filter: {fits_not}, value: 0.0}}, {{filter: {fits}, value: 0.5}}, {{value: 1.0}}"
        recipe = text.replace("SCALES", scales)
        with ParentSet.open(Recipe.parse(recipe)) as parents:
            steps = Merger(parents).steps(Recipe.parse(recipe))
        halved = {step.name for step in steps if step.parameters["scale"] == (0.5,)}
        assert halved == {name for name in mergekit_merge(recipe) if fits in name}
        assert all(step.parameters["scale"] != (0.0,) for step in steps)


def test_an_expert_that_is_missing_is_named_before_any_work(mixtral: Family, tmp_path: Path) -> None:
    missing = "model.layers.1.block_sparse_moe.experts.3.w1.weight"
    folder = shutil.copytree(mixtral.a, tmp_path / "a")
    stored = load_file(folder / "model.safetensors")
    del stored[missing]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        MergingError, match=r"a: tensor model\.layers\.1\.mlp\.experts\.gate_up_proj cannot be assembled from"
    ):
        ParentSet.open(Recipe.parse(ties(mixtral.base, str(folder))))
    del stored[missing.replace("w1", "w3")]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergingError, match=r"gate_up_proj has shape \[3, 128, 32\], but its .* says \[4, 128, 32\]"):
        ParentSet.open(Recipe.parse(ties(mixtral.base, str(folder))))
