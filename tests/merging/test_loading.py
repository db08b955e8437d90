"""A plain checkpoint is loaded as its files have it, or refused in one line that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergingError, load_model
from tests.conftest import ModelMaker


def change_tensors(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def change_config(model: Path, **values: object) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


UP = "model.layers.0.mlp.up_proj.weight"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor is missing": (lambda m: change_tensors(m, lambda t: t.pop(UP)), f"m: has no tensor {UP}, "),
    "layers are not counted": (
        lambda m: change_config(m, num_hidden_layers=2),
        r"m: its files hold the tensor model\.layers\.2\..*it counts 2 layers",
    ),
    "a tensor of a layer has no place": (
        lambda m: change_tensors(m, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})),
        r"its files hold the tensor model\.layers\.0\.self_attn\.q_proj\.bias",
    ),
    "a shape is another": (
        lambda m: change_config(m, intermediate_size=32),
        r"m: tensor model\.layers\.0\.mlp\.gate_proj\.weight has shape \[64, 32\], but its config says \[32, 32\]",
    ),
    "a value is not a number": (
        lambda m: change_config(m, hidden_size="big"),
        "m: its config.json cannot be used: .*'hidden_size'.*expected int",
    ),
    "the heads do not divide the width": (lambda m: change_config(m, num_attention_heads=0), "m: "),
    "the architecture is unknown": (
        lambda m: change_config(m, model_type="frobnicate"),
        "m: its config.json cannot be used: .*frobnicate",
    ),
    "there is no config": (lambda m: (m / "config.json").unlink(), "m holds no config.json"),
    "the generation config is broken": (
        lambda m: (m / "generation_config.json").write_text("{"),
        r"m/generation_config\.json: cannot be used",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_else_is_printed(
    make_model: ModelMaker, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    spoil, message = SPOILT[name]
    folder = make_model("m")
    capfd.readouterr()
    spoil(Path(folder))
    with pytest.raises(MergingError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gemma", "mixtral"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_is_loaded_in_silence(
    make_model: ModelMaker, capfd: pytest.CaptureFixture[str], architecture: str, tied: bool
) -> None:
    folder = make_model("m", architecture=architecture, tied=tied)
    capfd.readouterr()
    found = load_model(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in load_file(f"{folder}/model.safetensors").items()
               if name in found)  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_what_lies_beside_the_language_model_is_left(make_model: ModelMaker) -> None:
    folder = make_model("m")
    change_tensors(Path(folder), lambda t: t.update({"vision_tower.blocks.0.weight": torch.ones(3)}))
    assert load_model(folder).config.num_hidden_layers == 3
