"""A parent whose config contradicts its files is refused when it is opened, whichever parent it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import LoadOptions, MergeOptions, MergingError, ParentSet, Recipe
from tests.conftest import ModelMaker
from tests.merging.conftest import Family

UP, HEAD, EMBEDDING = "model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"
PACKED = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def configured(**values: object) -> Callable[[Path], object]:
    """Change the config and nothing else."""

    def spoil(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return spoil


def stored(change: Callable[[dict[str, Tensor]], object], **values: object) -> Callable[[Path], object]:
    """Change tensors, and perhaps the config."""

    def spoil(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        configured(**values)(model)

    return spoil


def packed(tensors: dict[str, Tensor]) -> None:
    tensors[UP] = torch.zeros(tensors[UP].numel() // 2, 1, dtype=torch.uint8)


def eight_bits(tensors: dict[str, Tensor]) -> None:
    tensors[UP] = tensors[UP].to(torch.int8)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "hidden_size": (configured(hidden_size=64), r"has shape \[\d+, 32\], but its config says \[\d+, 64\]"),
    "intermediate_size": (configured(intermediate_size=96), r"_proj\.weight has .*64.*, but its config says .*96"),
    "vocab_size": (configured(vocab_size=300), r"embed_tokens\.weight has shape \[262, 32\], .* says \[300, 32\]"),
    "num_hidden_layers": (configured(num_hidden_layers=2), "its files hold 3 layers, but its config says 2"),
    "num_key_value_heads": (configured(num_key_value_heads=4), r"k_proj\.weight has shape \[16, 32\], .* \[32, 32\]"),
    "num_attention_heads": (configured(num_attention_heads=8), r"q_proj\.weight has shape \[32, 32\], .* \[64, 32\]"),
    "head_dim": (configured(head_dim=16), r"q_proj\.weight has shape \[32, 32\], but its config says \[64, 32\]"),
    "attention_bias": (configured(attention_bias=True), r"has no tensor .*_proj\.bias, which its config asks for"),
    "a bias without a place": (
        stored(put("model.layers.0.self_attn.q_proj.bias", torch.ones(32))),
        r"tensor model\.layers\.0\.self_attn\.q_proj\.bias, which its config does not provide for",
    ),
    "no head": (stored(lambda t: t.pop(HEAD)), r"has no tensor lm_head\.weight, which its config asks for"),
    "a head of its own": (
        configured(tie_word_embeddings=True),
        r"its config ties lm_head\.weight to .* but its files hold another one; set tie_word_embeddings to false",
    ),
    "packed": (
        stored(packed, quantization_config=PACKED),
        r"is quantized \(bitsandbytes\), as its tensor .*up_proj\.weight \(torch\.uint8\) shows; .*dequantize it",
    ),
    "packed under another name": (
        stored(lambda t: put(f"{UP[:-6]}qweight", t.pop(UP))(t), quantization_config={"quant_method": "q"}),
        r"is quantized \(q\), as its tensor .*up_proj\.weight shows",
    ),
    "eight bits": (stored(eight_bits), r"up_proj\.weight is stored as torch\.int8; save the model as bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("spoilt", ["base", "a", "b"])
@pytest.mark.parametrize("what", SPOILT)
def test_a_config_that_contradicts_the_files_is_refused_when_they_are_opened(
    family: Family, tmp_path: Path, what: str, spoilt: str
) -> None:
    spoil, message = SPOILT[what]
    models = {name: getattr(family, name) for name in ("base", "a", "b")}
    models[spoilt] = str(shutil.copytree(models[spoilt], tmp_path / spoilt))
    spoil(tmp_path / spoilt)
    with pytest.raises(MergingError, match=f"model {tmp_path / spoilt}: .*{message}"):
        ParentSet.open(Recipe.average(list(models.values())))


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(stored(put("model.rotary_emb.inv_freq", torch.ones(4))), id="of no layer"),
        pytest.param(stored(put("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))), id="computed"),
        pytest.param(stored(put("vision_tower.layers.0.weight", torch.ones(3))), id="beside the model"),
        pytest.param(stored(lambda t: t.update({HEAD: t[EMBEDDING].clone()}), tie_word_embeddings=True), id="tied"),
        pytest.param(configured(quantization_config=PACKED), id="dequantized"),
    ],
)
def test_what_transformers_loads_as_it_is_may_be_merged(
    family: Family, tmp_path: Path, harmless: Callable[[Path], object]
) -> None:
    folder = shutil.copytree(family.a, tmp_path / "a")
    harmless(Path(folder))
    ParentSet.open(Recipe.single(str(folder))).close()


def test_a_model_of_another_architecture_is_checked_against_its_own_config(
    make_model: ModelMaker, family: Family
) -> None:
    other = make_model("mistral", architecture="mistral")
    recipe = Recipe.average([family.a, other])
    ParentSet.open(recipe, MergeOptions(load=LoadOptions(allow_crimes=True))).close()
    configured(hidden_size=64)(Path(other))
    with pytest.raises(MergingError, match=f"model {other}: tensor .* but its config says"):
        ParentSet.open(recipe, MergeOptions(load=LoadOptions(allow_crimes=True)))
