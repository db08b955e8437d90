"""Torch pickles are parents behind a switch, and never run code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging import LoadOptions, MergeOptions, Merger, MergingError, ParentSet, Recipe, load_model
from merging.checkpoints.checkpoint import Checkpoint
from tests.merging.conftest import Family


def pickled(model: str, folder: Path) -> Path:
    """Copy a model into a folder of torch pickles, sharded where it was."""
    shutil.copytree(model, folder)
    names = {}
    for file in sorted(folder.glob("*.safetensors")):
        name = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        torch.save(load_file(file), folder / name)
        names[file.name] = name
        file.unlink()
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {tensor: names[file] for tensor, file in content["weight_map"].items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content), encoding="utf-8")
        index.unlink()
    return folder


@pytest.fixture
def broken(family: Family, tmp_path: Path) -> Path:
    """A pickled fine-tune, to be broken."""
    return pickled(family.a, tmp_path / "broken")


def refusal(folder: Path) -> str:
    """Return the one line with which a folder is refused in spite of the switch."""
    with pytest.raises(MergingError) as caught:
        Checkpoint.open(str(folder), options=LoadOptions(lazy_unpickle=True))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["family", "qwen_family"])
def test_a_pickled_model_is_the_model_that_was_pickled(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: str = request.getfixturevalue(kind).a
    expected = Checkpoint.open(model)
    found = Checkpoint.open(str(pickled(model, tmp_path / "pickled")), options=LoadOptions(lazy_unpickle=True))
    assert found.tensors.keys() == expected.tensors.keys()
    for name in expected.tensors:
        assert torch.equal(found.read(name), expected.read(name))


def test_a_pickle_is_merged_and_loaded_like_safetensors(family: Family, tmp_path: Path) -> None:
    pickle = str(pickled(family.a, tmp_path / "pickled"))
    merged = []
    for model in (family.a, pickle):
        recipe = Recipe.average([family.base, model])
        with ParentSet.open(recipe, MergeOptions(load=LoadOptions(lazy_unpickle=True))) as parents:
            merged.append({name: t.clone() for name, t in Merger(parents).apply(recipe).state_dict().items()})
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[0])
    loaded, expected = (
        load_model(pickle, options=LoadOptions(lazy_unpickle=True)).state_dict(),
        load_model(family.a).state_dict(),
    )
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_safetensors_come_before_pickles(family: Family, tmp_path: Path) -> None:
    both = Path(shutil.copytree(family.a, tmp_path / "both"))
    (both / "pytorch_model.bin").write_bytes(b"not looked at")
    assert (
        Checkpoint.open(str(both), options=LoadOptions(lazy_unpickle=True)).tensors
        == Checkpoint.open(str(both)).tensors
    )


def test_views_parameters_and_shared_storage_are_read_as_tensors_of_their_own(broken: Path) -> None:
    square = torch.arange(12.0).reshape(3, 4)
    content = {"turned": square.T, "part": square[1:], "same": square, "kept": torch.nn.Parameter(square.clone())}
    torch.save({"state_dict": content, "epoch": 3}, broken / "pytorch_model.bin")
    found = Checkpoint.open(str(broken), options=LoadOptions(lazy_unpickle=True))
    assert set(found.tensors) == set(content)
    for name, tensor in content.items():
        read = found.read(name)
        assert torch.equal(read, tensor)
        assert read.is_contiguous()
        assert not read.requires_grad


class _Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_holds_code_is_refused_by_name_and_not_run(broken: Path, tmp_path: Path) -> None:
    file = broken / "pytorch_model.bin"
    torch.save({"weight": torch.ones(2), "trap": _Code(tmp_path / "it ran")}, file)
    assert refusal(broken) == (
        f"{file}: this pickle runs code when it is loaded (posix.mkdir), which merge-search never does; "
        "get the model as safetensors"
    )
    assert not (tmp_path / "it ran").exists()


def test_a_pickled_module_is_refused(broken: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), broken / "pytorch_model.bin")
    assert "runs code when it is loaded (torch.nn.modules.linear.Linear)" in refusal(broken)


def test_the_format_of_before_torch_1_6_is_refused_with_the_remedy(broken: Path) -> None:
    file = broken / "pytorch_model.bin"
    torch.save({"weight": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    assert refusal(broken) == (
        f"{file}: is not a torch pickle, or is older than torch 1.6; save the model again, as safetensors"
    )


@pytest.mark.parametrize("keep", [0, 50, 5000, -100])
def test_a_truncated_pickle_is_named(broken: Path, keep: int) -> None:
    file = broken / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:keep])
    assert refusal(broken).startswith(f"{file}: is not a ")


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {"epoch": 3}])
def test_a_pickle_of_something_else_is_named(broken: Path, content: object) -> None:
    torch.save(content, broken / "pytorch_model.bin")
    assert str(broken) in refusal(broken)


def test_a_pickle_that_is_cut_short_after_it_was_opened_is_an_error_and_no_crash(broken: Path) -> None:
    found = Checkpoint.open(str(broken), options=LoadOptions(lazy_unpickle=True))
    os.truncate(broken / "pytorch_model.bin", 1000)
    with pytest.raises(MergingError, match="the file was truncated or removed"):
        found.read("model.norm.weight")
