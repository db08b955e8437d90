"""Of a method that mergekit does not have, mergekit can be given an equal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
from mergekit.merge_methods import registered_methods  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from merging import ExportOptions, Merger, MergingError, ParentSet, Recipe, export_model, load_tokenizer
from merging.export.mergekit_equivalent import notice
from merging.methods import METHODS
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_folder, mergekit_merge
from tests.merging.peft_oracle import save_adapter
from tests.merging.recipes import recipes
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model


def text(family: Family, method: str, dtype: str, more: str = "") -> str:
    return f"""
merge_method: {method}
base_model: {family.base}
models: [{{model: {family.a}}}, {{model: {family.b}}}]
dtype: {dtype}
{more}
"""


@pytest.mark.parametrize(
    ("method", "dtype", "kind"),
    [
        ("tsv_m", "bfloat16", "family"),
        ("tsv_m", "float16", "qwen_family"),
        ("tsv_m", "float32", "family"),
        ("consensus_ta", "bfloat16", "qwen_family"),
        ("consensus_ta", "float16", "family"),
        ("consensus_ta", "float32", "qwen_family"),
    ],
)
def test_mergekit_makes_the_same_tensors_of_the_equal(
    method: str, dtype: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = Recipe.parse(text(request.getfixturevalue(kind), method, dtype))
    export_model(wanted, tmp_path / "merge", files=ExportOptions(max_shard_size="60KB", mergekit_compatible=True))
    with ParentSet.open(wanted) as parents:
        ours = Merger(parents).apply(wanted).state_dict()
    theirs = mergekit_merge((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8"))
    assert ours.keys() - theirs.keys() <= {"lm_head.weight"}
    for name, tensor in theirs.items():
        assert tensor.dtype == ours[name].dtype
        one_unit = torch.finfo(tensor.dtype).eps * ours[name].double().abs()
        assert bool(((tensor.double() - ours[name].double()).abs() <= one_unit).all()), name


def test_the_equal_is_task_arithmetic_of_the_base_and_the_merge(family: Family, tmp_path: Path) -> None:
    wanted = Recipe.parse(text(family, "pcb", "bfloat16", 'chat_template: "{{ messages[0].content }}"'))
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    assert sorted(path.name for path in (tmp_path / "merge").iterdir()) == ["README.md", "delta", "recipe.yaml"]
    assert yaml.safe_load((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8")) == {
        "merge_method": "task_arithmetic",
        "base_model": family.base,
        "models": [{"model": str(tmp_path / "merge/delta"), "parameters": {"weight": 1.0}}],
        "dtype": "float32",
        "out_dtype": "bfloat16",
        "chat_template": "{{ messages[0].content }}",
    }
    # What lies in it is the merge as it is always exported.
    export_model(wanted, tmp_path / "plain")
    plain, delta = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "merge/delta"))
    assert plain == delta
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "merge/delta"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_tokenizer(str(tmp_path / "merge/delta")).get_vocab() == load_tokenizer(family.base).get_vocab()


def test_a_merge_of_another_depth_is_passed_through(family: Family, tmp_path: Path) -> None:
    sources = ", ".join(f"{{model: {model}, layer_range: [0, 2]}}" for model in (family.base, family.a, family.b))
    wanted = Recipe.parse(
        f"merge_method: iso_c\nbase_model: {family.base}\nslices: [{{sources: [{sources}]}}]\ndtype: bfloat16\n"
    )
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    theirs = mergekit_merge((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8"))
    ours = load_file(tmp_path / "merge/delta/model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_merge_of_several_dtypes_is_passed_through_in_them(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    stored = load_file(base / "model.safetensors")
    stored["model.norm.weight"] = stored["model.norm.weight"].float()
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    wanted = Recipe.parse(text(replace(family, base=str(base)), "consensus_ta", "bfloat16").replace("dtype:", "#"))
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    delta = load_file(tmp_path / "merge/delta/model.safetensors")
    assert [name for name, tensor in delta.items() if tensor.dtype == torch.float32] == ["model.norm.weight"]
    theirs = mergekit_merge((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8"))
    assert {name: each.dtype for name, each in theirs.items()} == {name: each.dtype for name, each in delta.items()}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in delta.items())


def test_what_mergekit_can_read_is_exported_as_always(family: Family, tmp_path: Path) -> None:
    wanted = Recipe.parse(recipes(family, "bfloat16")["ties"])
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    assert Recipe.load(tmp_path / "merge/recipe.yaml") == wanted
    assert not (tmp_path / "merge/delta").exists()


def test_a_path_that_mergekit_would_read_as_an_adapter_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(MergingError, match=r"a\+b: mergekit reads \+ and @ in a path"):
        export_model(
            Recipe.parse(text(family, "pcb", "bfloat16")),
            tmp_path / "a+b",
            files=ExportOptions(mergekit_compatible=True),
        )
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_mergekit_cannot_read(family: Family, tmp_path: Path) -> None:
    wanted = Recipe.parse(text(family, "tsv_m", "bfloat16"))
    export_model(wanted, tmp_path / "plain")
    card = (tmp_path / "plain/README.md").read_text(encoding="utf-8")
    assert "mergekit has no such method" in card
    assert "mergekit-yaml" not in card
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["merge", "merge-search"]
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    card = (tmp_path / "merge/README.md").read_text(encoding="utf-8")
    assert "`mergekit-yaml recipe.yaml DIR` makes the same tensors" in card


def test_mergekit_has_the_methods_that_it_is_said_to_have() -> None:
    theirs = {method.spec.name for method in registered_methods()}
    assert {name for name, method in METHODS.items() if method.in_mergekit} == theirs
    assert all((notice(name) is None) is (name in theirs) for name in METHODS)


def test_a_merge_of_another_vocabulary_is_passed_through_with_its_tokenizer(family: Family, tmp_path: Path) -> None:
    added = save_tiny_model(tmp_path / "b", TinyModel(seed=2, vocabulary=TinyVocabulary(added=("<x>",), rows=270)))
    unequal = Family(family.base, family.a, added)
    more = "chat_template: chatml\ntokenizer: {source: union, pad_to_multiple_of: 8}"
    export_model(
        Recipe.parse(text(unequal, "consensus_ta", "float16", more)),
        tmp_path / "merge",
        files=ExportOptions(mergekit_compatible=True),
    )
    theirs = mergekit_folder((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8"), tmp_path / "theirs")
    ours = load_file(tmp_path / "merge/delta/model.safetensors")
    assert len(ours["model.embed_tokens.weight"]) == 264
    again = load_file(theirs / "model.safetensors")
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    one, other = load_tokenizer(str(theirs)), load_tokenizer(str(tmp_path / "merge/delta"))
    assert one.get_vocab() == other.get_vocab()
    assert one.chat_template == other.chat_template
    assert "<x>" in one.get_vocab()


def test_the_equal_of_a_merge_onto_an_adapted_base_is_onto_the_plain_one(family: Family, tmp_path: Path) -> None:
    adapter = save_adapter(family.base, tmp_path / "adapter", target_modules=["q_proj"])
    adapted = Family(f"{family.base}+{adapter}", family.a, family.b)
    wanted = Recipe.parse(text(adapted, "iso_c", "bfloat16"))
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    assert Recipe.load(tmp_path / "merge/recipe.yaml").base_model == family.base
    theirs = mergekit_merge((tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8"))
    ours = load_file(tmp_path / "merge/delta/model.safetensors")
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_without_card_and_tokenizer_there_are_none(family: Family, tmp_path: Path) -> None:
    wanted = Recipe.parse(text(family, "pcb", "bfloat16"))
    export_model(
        wanted,
        tmp_path / "merge",
        files=ExportOptions(write_model_card=False, copy_tokenizer=False, mergekit_compatible=True),
    )
    found = {str(path.relative_to(tmp_path / "merge")) for path in (tmp_path / "merge").rglob("*") if path.is_file()}
    assert {"recipe.yaml", "delta/recipe.yaml", "delta/model.safetensors"} <= found
    assert not [name for name in found if "README" in name or "tokenizer" in name]


def test_the_equal_is_a_recipe_that_mergekit_validates(family: Family, tmp_path: Path) -> None:
    wanted = Recipe.parse(text(family, "wudi", "float16"))
    export_model(wanted, tmp_path / "merge", files=ExportOptions(mergekit_compatible=True))
    written = (tmp_path / "merge/recipe.yaml").read_text(encoding="utf-8")
    config = MergeConfiguration.model_validate(yaml.safe_load(written))
    assert str(config.base_model) == family.base
