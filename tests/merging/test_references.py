"""A parent is found by its literal name, and called what tells it from the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging import Recipe, export_model, short_names, split_reference
from merging.checkpoints.references import parts_of
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge

ADAPTERS = ("/m/base+/x/lora", "/m/base+/y/lora", "/m/base")


@pytest.mark.parametrize(
    ("plain", "names"),
    [
        (["/x/text", "/x/maths"], ["text", "maths"]),
        ([{"model": {"path": "/x/text@v2"}}, {"model": {"path": "/x/a+b"}}], ["text@v2", "a+b"]),
        (["/one/final", "/two/final", "/base"], ["one/final", "two/final", "base"]),
        (["/a/one/final", "/b/one/final"], ["a/one/final", "b/one/final"]),
        (["owner/model", "/x/owner/model"], ["owner/model", "x/owner/model"]),
        (["owner/model@v1", "owner/model@v2"], ["model@v1", "model@v2"]),
        ([{"model": {"path": "owner/model", "revision": "v1"}}, "owner/model"], ["model@v1", "model"]),
        (["/m/base+/a/one", "/m/base+/a/two", "/m/base"], ["base+one", "base+two", "base"]),
        (ADAPTERS, ["m/base+x/lora", "m/base+y/lora", "base"]),
        ([{"model": "/m/base", "lora": {"path": "/x/a+b"}}], ["base+a+b"]),
        (["/x/model", "/x/model-v2"], ["model", "model-v2"]),
        (["/x/model/", "./a", "..", "."], ["model", "./a", "..", "."]),
        (["/x/модель", "/x/模型", "/x/نموذج"], ["модель", "模型", "نموذج"]),
        (["/x/two\nlines", "/x/\x1b[31mred", "/x/\u202eback"], [r"two\nlines", r"\x1b[31mred", r"\u202eback"]),
    ],
)
def test_short_names_tell_models_apart(plain: list[object], names: list[str]) -> None:
    found = short_names(plain)
    assert list(found.values()) == names
    assert list(found) == ["+".join(parts_of(each)) for each in plain]


def test_a_folder_that_is_there_is_no_adapter_however_many_signs_it_has(tmp_path: Path) -> None:
    for name in ("a+b", "a", "b", "c+d"):
        (tmp_path / name).mkdir()
    assert split_reference(f"{tmp_path}/a+b") == (f"{tmp_path}/a+b", None)
    assert split_reference(f"{tmp_path}/a+b+{tmp_path}/c+d") == (f"{tmp_path}/a+b", f"{tmp_path}/c+d")


def test_mergekit_reads_what_is_exported_of_folders_with_signs(family: Family, tmp_path: Path) -> None:
    links = [tmp_path / name for name in ("base@1", "a@v2@3 é", "b+v2+x")]
    for link, folder in zip(links, (family.base, family.a, family.b), strict=True):
        link.symlink_to(folder)
    models = [{"model": str(link), "parameters": {"weight": 0.5, "density": 0.7}} for link in links[1:]]
    plain = {"merge_method": "ties", "base_model": str(links[0]), "models": models, "dtype": "bfloat16"}
    export_model(Recipe.from_dict(plain, "test"), tmp_path / "merged")
    text = (tmp_path / "merged" / "recipe.yaml").read_text(encoding="utf-8")
    assert Recipe.parse(text).parents() == tuple(map(str, [*links[1:], links[0]]))
    wanted, found = mergekit_merge(text, stable_sort=True), load_file(tmp_path / "merged" / "model.safetensors")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in found)


def test_a_model_card_names_any_parent_in_valid_yaml(family: Family, tmp_path: Path) -> None:
    import yaml

    odd = tmp_path / "a: b #1 + 'c'"
    odd.symlink_to(family.a)
    export_model(Recipe.single(str(odd)), tmp_path / "merged")
    _, front, _ = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == [odd.name]
