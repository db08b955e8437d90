"""An export is the model that was scored, whole or not there at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from merging import (
    ExportOptions,
    MergeOptions,
    Merger,
    MergingError,
    NonFiniteTensor,
    ParentSet,
    Recipe,
    export_model,
    load_tokenizer,
    model_card,
)
from tests.conftest import ModelMaker
from tests.merging.conftest import Family
from tests.merging.disks import Limit, small_disk, small_files
from tests.merging.oracle import mergekit_merge
from tests.merging.recipes import recipes
from tests.parametrization import every


def recipe(family: Family, name: str = "ties") -> Recipe:
    """Return a recipe for a family."""
    if name == "dare_ties":
        return Recipe.parse(recipes(family, "bfloat16")["ties"].replace("method: ties", "method: dare_ties"))
    return Recipe.parse(recipes(family, "bfloat16")[name])


def scored(recipe: Recipe, random_seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of the live model, which are those that a search scores."""
    with ParentSet.open(recipe) as parents:
        model = Merger(parents, random_seed).apply(recipe)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def loaded(folder: Path) -> PreTrainedModel:
    """Load an export as anyone would; nothing may be missing, new or of another shape."""
    both: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    model, report = both
    assert not any(report.values()), report
    assert isinstance(model, PreTrainedModel)
    return model


def assert_same_bits(folder: Path, expected: dict[str, Tensor]) -> None:
    """Fail unless a loaded export has exactly these tensors."""
    found = loaded(folder).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ties", "dare_ties", "slerp", "linear", "passthrough", "slices", "out_dtype"])
@pytest.mark.parametrize("max_shard_size", every(2, ["30KB", "5GB"]))
def test_the_scored_model_is_the_exported_model(family: Family, tmp_path: Path, name: str, max_shard_size: str) -> None:
    wanted = recipe(family, name)
    export_model(
        wanted, tmp_path / "merge", MergeOptions(random_seed=7), files=ExportOptions(max_shard_size=max_shard_size)
    )
    assert_same_bits(tmp_path / "merge", scored(wanted, random_seed=7))


@pytest.mark.parametrize("name", ["ties", "dare_ties", "linear"])
@pytest.mark.parametrize("max_shard_size", every(2, ["5GB", "30KB"]))
def test_a_tied_head_is_exported_once(qwen_family: Family, tmp_path: Path, name: str, max_shard_size: str) -> None:
    wanted = recipe(qwen_family, name)
    export_model(wanted, tmp_path / "merge", files=ExportOptions(max_shard_size=max_shard_size))
    assert_same_bits(tmp_path / "merge", scored(wanted))
    saved = {name for file in (tmp_path / "merge").glob("*.safetensors") for name in load_file(file)}
    assert "lm_head.weight" not in saved
    model = loaded(tmp_path / "merge")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[no-untyped-call]


def test_the_random_seed_decides_what_an_export_drops(family: Family, tmp_path: Path) -> None:
    wanted = recipe(family, "dare_ties")
    export_model(wanted, tmp_path / "merge", MergeOptions(random_seed=1))
    first, second = scored(wanted, random_seed=0), scored(wanted, random_seed=1)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert_same_bits(tmp_path / "merge", second)


@pytest.mark.parametrize("layers", ["[0, 3]|[0, 3]", "[0, 2]|[1, 3]|[2, 3]", "[1, 2]"])
def test_slices_of_another_depth_are_exported_with_a_config_of_that_depth(
    qwen_family: Family, tmp_path: Path, layers: str
) -> None:
    slices = [f"{{sources: [{{model: {qwen_family.a}, layer_range: {each}}}]}}" for each in layers.split("|")]
    wanted = Recipe.parse(f"merge_method: passthrough\nslices: [{', '.join(slices)}]")
    export_model(wanted, tmp_path / "merge", files=ExportOptions(max_shard_size="30KB"))
    assert_same_bits(tmp_path / "merge", scored(wanted))
    depth = sum(high - low for low, high in (yaml.safe_load(each) for each in layers.split("|")))
    assert AutoConfig.from_pretrained(tmp_path / "merge").num_hidden_layers == depth
    ids = torch.arange(8).view(1, 8)
    assert torch.isfinite(loaded(tmp_path / "merge")(ids).logits).all()


def test_shards_keep_to_their_size_and_their_index_names_every_tensor(family: Family, tmp_path: Path) -> None:
    export_model(recipe(family), tmp_path / "merge", files=ExportOptions(max_shard_size="30KB"))
    shards = sorted(path.name for path in (tmp_path / "merge").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    index = json.loads((tmp_path / "merge/model.safetensors.index.json").read_text(encoding="utf-8"))
    found = {name: file for file in shards for name in load_file(tmp_path / "merge" / file)}
    assert index["weight_map"] == found
    sizes = {
        file: sum(tensor.numel() * tensor.itemsize for tensor in load_file(tmp_path / "merge" / file).values())
        for file in shards
    }
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    assert max(sizes.values()) <= 30_000


@pytest.mark.parametrize("size", ["", "5", "GB", "-1GB", "0MB", "many MB", "1.2.3GB"])
def test_a_shard_size_that_is_none_is_refused(family: Family, tmp_path: Path, size: str) -> None:
    with pytest.raises(MergingError, match=f"^max_shard_size: {size!r} is not a size; write it like 5GB or 500MB"):
        export_model(recipe(family), tmp_path / "merge", files=ExportOptions(max_shard_size=size))
    assert not list(tmp_path.iterdir())


# --- what lies beside the tensors -----------------------------------------------------------------------------------


def test_an_export_is_complete(family: Family, tmp_path: Path) -> None:
    export_model(recipe(family), tmp_path / "merge")
    assert sorted(path.name for path in (tmp_path / "merge").iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["merge"]


def test_an_export_can_be_read_by_others(family: Family, tmp_path: Path) -> None:
    export_model(recipe(family), tmp_path / "merge")
    assert (tmp_path / "merge").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["ties", "slices", "slerp", "out_dtype"])
def test_the_recipe_of_an_export_is_one_that_mergekit_makes_the_same_model_of(
    float32_family: Family, tmp_path: Path, name: str
) -> None:
    wanted = Recipe.parse(recipes(float32_family, "float32")[name])
    export_model(wanted, tmp_path / "merge")
    text = (tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8")
    assert Recipe.load(tmp_path / "merge/recipe.yaml") == wanted
    assert MergeConfiguration.model_validate(yaml.safe_load(text)).merge_method == wanted.merge_method
    theirs = mergekit_merge(text)
    for name, tensor in loaded(tmp_path / "merge").state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-6 * float(theirs[name].abs().max()))


def test_config_and_generation_config_are_the_bases_with_its_tokenizers_ids(family: Family, tmp_path: Path) -> None:
    base = Path(shutil.copytree(family.base, tmp_path / "base"))
    # What many models have, and transformers refuses to save: a temperature without sampling.
    settings = {"temperature": 0.6, "do_sample": False, "eos_token_id": 257, "max_new_tokens": 32}
    (base / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    wanted = Recipe.parse(
        recipes(family, "bfloat16")["out_dtype"].replace(f"base_model: {family.base}", f"base_model: {base}")
    )
    export_model(wanted, tmp_path / "merge")
    assert json.loads((tmp_path / "merge/generation_config.json").read_text(encoding="utf-8")) == settings | {
        "bos_token_id": 256,
        "pad_token_id": 257,
    }
    ours, theirs = (AutoConfig.from_pretrained(folder).to_dict() for folder in (tmp_path / "merge", base))
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing - {"_name_or_path"} == {"dtype"}
    assert ours["dtype"] == "float16"


def test_a_base_without_a_generation_config_gets_one(family: Family, tmp_path: Path) -> None:
    base = Path(shutil.copytree(family.base, tmp_path / "base"))
    (base / "generation_config.json").unlink()
    export_model(Recipe.single(str(base)), tmp_path / "merge")
    assert GenerationConfig.from_pretrained(tmp_path / "merge").eos_token_id == 257


def test_the_exported_tokenizer_is_the_merges(family: Family, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    text = recipes(family, "bfloat16")["ties"] + f'chat_template: "{template}"\n'
    export_model(Recipe.parse(text), tmp_path / "merge")
    tokenizer = load_tokenizer(str(tmp_path / "merge"))
    assert tokenizer.get_vocab() == load_tokenizer(family.base).get_vocab()
    assert tokenizer.chat_template == template


def test_the_model_card_names_the_parents_and_how_to_make_it_again(family: Family, tmp_path: Path) -> None:
    wanted = recipe(family, "dare_ties")
    export_model(wanted, tmp_path / "my-merge", MergeOptions(random_seed=3))
    card = (tmp_path / "my-merge/README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == [Path(parent).name for parent in wanted.parents()]
    assert front["library_name"] == "transformers"
    assert card.split("---\n")[2].strip().startswith("# my-merge\n")
    assert str(tmp_path.parent) not in card
    assert wanted.to_yaml({parent: Path(parent).name for parent in wanted.parents()}).strip() in card
    assert "--random-seed 3" in card


def test_a_model_card_calls_folders_by_short_names_and_the_models_of_the_hub_by_their_ids(tmp_path: Path) -> None:
    for name in ("here/model", "a+b", "adapter"):
        (tmp_path / name).mkdir(parents=True)
    wanted = Recipe.parse(f"""
merge_method: linear
base_model: {{model: {{path: {tmp_path}/a+b}}, lora: {{path: {tmp_path}/adapter}}}}
models:
- model: {tmp_path}/here/model
- model: owner/model@main
- model: owner/model+{tmp_path}/adapter
parameters: {{weight: 1.0}}
""")
    card = model_card(wanted, "merge", 0)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["model", "owner/model@main", "owner/model+adapter", "a+b+adapter"]
    assert str(tmp_path) not in card
    assert "- model: owner/model@main" in card


def test_a_card_that_is_given_is_the_one(family: Family, tmp_path: Path) -> None:
    export_model(recipe(family), tmp_path / "merge", files=ExportOptions(card="# mine\n"))
    assert (tmp_path / "merge/README.md").read_text(encoding="utf-8") == "# mine\n"


def test_an_export_is_a_parent_like_any_other(family: Family, tmp_path: Path) -> None:
    export_model(recipe(family), tmp_path / "first", files=ExportOptions(max_shard_size="30KB"))
    again = Recipe.single(str(tmp_path / "first"))
    export_model(again, tmp_path / "second")
    assert_same_bits(tmp_path / "second", scored(recipe(family)))


# --- folders that cannot be used ------------------------------------------------------------------------------------


def test_a_taken_folder_is_refused_and_left_as_it_was(family: Family, tmp_path: Path) -> None:
    taken = tmp_path / "merge"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MergingError) as caught:
        export_model(recipe(family), taken)
    assert str(caught.value) == f"{taken}: exists already and is not empty; choose another folder, or remove it first"
    assert [(path.name, path.read_text(encoding="utf-8")) for path in taken.iterdir()] == [("notes.txt", "mine")]
    assert list(tmp_path.iterdir()) == [taken]


def test_of_two_exports_at_once_the_later_one_is_told_what_to_do(family: Family, tmp_path: Path) -> None:
    target = tmp_path / "merge"

    def other(phase: str, done: int, total: int) -> None:  # noqa: ARG001
        if phase == "opening what was written":
            export_model(recipe(family), target)

    with pytest.raises(MergingError) as caught:
        export_model(recipe(family), target, progress=other)
    assert str(caught.value) == f"{target}: exists already and is not empty; choose another folder, or remove it first"
    assert list(tmp_path.iterdir()) == [target]
    AutoModelForCausalLM.from_pretrained(target)


def test_a_file_of_that_name_is_refused_and_left_as_it_was(family: Family, tmp_path: Path) -> None:
    file = tmp_path / "merge"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(MergingError, match=f"^{file}: exists already"):
        export_model(recipe(family), file)
    assert file.read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_and_one_that_is_missing_are_taken(family: Family, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "deep/er"):
        export_model(recipe(family), folder)
        assert (folder / "model.safetensors").exists()


def test_a_folder_under_a_file_cannot_be_made(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MergingError, match=f"^{tmp_path}/file/merge: cannot be written: "):
        export_model(recipe(family), tmp_path / "file/merge")


def test_a_merge_that_fails_leaves_nothing_behind(make_model: ModelMaker, tmp_path: Path) -> None:
    models = [make_model("a"), make_model("b", seed=1)]
    huge = Recipe.average(models, dtype="float16")
    for model in huge.models or ():
        model.parameters["weight"] = 1e9
    huge.parameters["normalize"] = False
    with pytest.raises(NonFiniteTensor):
        export_model(huge, tmp_path / "out/merge", files=ExportOptions(max_shard_size="30KB"))
    assert not list((tmp_path / "out").iterdir())


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_too_little_room_is_seen_before_anything_is_written(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(MergingError) as caught:
        export_model(recipe(family), tmp_path / "merge")
    assert str(caught.value).startswith(f"{tmp_path}/merge: the export needs ")
    assert re.search(r"needs \d\d\d? KB and the disk has 1 KB free; make room", str(caught.value))
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_copied_need_no_room(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(family.base, base)
    with (base / "pytorch_model.bin").open("wb") as file:
        file.truncate(10**12)  # of holes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    export_model(Recipe.single(str(base)), tmp_path / "merge")


# --- where an export goes -------------------------------------------------------------------------------------------


def test_a_link_to_an_empty_folder_is_filled(family: Family, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    export_model(recipe(family), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model.safetensors").is_file()


@pytest.mark.parametrize(("place", "what"), [(".", "the current folder"), ("/proc", "a mount point")])
def test_a_folder_that_cannot_be_replaced_is_refused_before_anything_is_merged(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("merging.export.export.run_steps", Mock(side_effect=AssertionError))
    with pytest.raises(
        MergingError, match=f"is {what}, which cannot be replaced by a whole model; give a folder in it"
    ):
        export_model(recipe(family), Path(place))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [small_disk, small_files])
@pytest.mark.parametrize("max_shard_size", ["5GB", "15KB"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Limit, max_shard_size: str
) -> None:
    # The room looked enough; then others wrote, too.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    disk = tmp_path / "disk"
    disk.mkdir()
    with limit(disk):
        with pytest.raises(MergingError) as caught:
            export_model(recipe(family), disk / "merge", files=ExportOptions(max_shard_size=max_shard_size))
        assert str(caught.value).startswith(f"{disk}/merge: cannot be written: ")
        assert str(caught.value).endswith("; nothing was left there; make room or choose another folder")
        assert not list(disk.iterdir())


@pytest.mark.parametrize(
    ("compile", "phases"), [(True, ["opening", "compiling,", "merging"]), (False, ["opening", "merging"])]
)
def test_an_export_says_what_it_does_before_it_begins(
    family: Family, tmp_path: Path, compile: bool, phases: list[str]
) -> None:
    told: list[str] = []
    recipe = Recipe.average([family.a, family.b])
    export_model(
        recipe,
        tmp_path / "out",
        MergeOptions(compile=compile),
        progress=lambda phase, *_: told.append(phase.split()[0]),
    )
    assert list(dict.fromkeys(told)) == phases
