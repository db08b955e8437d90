"""What is exported is opened again, and loads as what was scored, or is not exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from merging import ExportOptions, Merger, MergingError, ParentSet, Recipe, ScoredMerge, export_model
from tests.merging.conftest import Family
from tests.merging.test_export import assert_same_bits, scored
from tests.merging.zoo import STYLES
from tests.parametrization import every
from tests.tiny import TinyModel, save_tiny_model

TOKENS = torch.arange(12)[None]


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def ties(family: Family, more: str = "dtype: bfloat16") -> Recipe:
    """Return a merge of a family."""
    models = "".join(f"- {{model: {m}, parameters: {{weight: 0.6, density: 0.5}}}}\n" for m in (family.a, family.b))
    return Recipe.parse(f"merge_method: ties\nbase_model: {family.base}\nmodels:\n{models}{more}\n")


def digest(recipe: Recipe, **options: Any) -> str:
    """Return the digest of the weights that a search scores."""
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents, **options)
        merger.apply(recipe)
        return merger.weights_digest(recipe)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Return a function that makes a family of an architecture."""

    def make(architecture: str) -> Family:
        folder = tmp_path_factory.mktemp(architecture)
        options, _ = STYLES[architecture]
        names = ("base", "a", "b")
        tiny = [TinyModel(seed=seed, architecture=architecture, layers=2, **options) for seed in range(3)]  # type: ignore[arg-type]
        return Family(*(save_tiny_model(folder / name, each) for name, each in zip(names, tiny, strict=True)))

    return make


# --- the digest of the weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", every(3, STYLES))
def test_the_export_has_the_digest_of_what_was_scored(
    zoo: Callable[[str], Family], tmp_path: Path, architecture: str
) -> None:
    recipe = ties(zoo(architecture))
    found = digest(recipe)
    assert digest(recipe, compute_dtype=torch.float32) == found
    export_model(
        recipe,
        tmp_path / "merged",
        files=ExportOptions(max_shard_size="20KB"),
        scored=ScoredMerge(weights_digest=found),
    )
    with pytest.raises(
        MergingError, match=r"other: was not exported, .*its weights differ from those that were scored"
    ):
        export_model(recipe, tmp_path / "other", scored=ScoredMerge(weights_digest=found[::-1]))
    assert not list(tmp_path.glob("*other*"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("wide", "dtypes"),
    every(
        2,
        [
            ("norm", "dtype: float32\nout_dtype: float16"),
            ("mlp", "dtype: float32"),
            ("norm", ""),
            ("mlp", ""),
            ("mlp", "out_dtype: bfloat16"),
        ],
    ),
)
def test_a_digest_holds_for_any_mix_of_dtypes(family: Family, tmp_path: Path, dtypes: str, wide: str) -> None:
    copies = {name: tmp_path / name for name in ("base", "a", "b")}
    for name, folder in copies.items():
        shutil.copytree(getattr(family, name), folder)
        tensors = load_file(folder / "model.safetensors")
        mixed = {key: tensor.float() * 1.0001 if wide in key else tensor for key, tensor in tensors.items()}
        save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = ties(Family(*map(str, copies.values())), dtypes)
    found = {digest(recipe), digest(recipe, compute_dtype=torch.float32)}
    assert len(found) == 1
    export_model(recipe, tmp_path / "merged", scored=ScoredMerge(weights_digest=found.pop()))


def test_one_bit_is_another_digest(family: Family, tmp_path: Path) -> None:
    recipe = Recipe.single(str(shutil.copytree(family.a, tmp_path / "a")))
    before = digest(recipe)
    assert digest(Recipe.single(family.a)) == before  # by its bits, not by its place
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    tensors["model.norm.weight"].view(torch.int16)[-1] ^= 1
    save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    assert digest(recipe) != before


# --- keys of the config source's config ---------------------------------------------------------------------------

FOURBIT = {"quant_method": "bitsandbytes", "load_in_4bit": True}
KEYS: dict[str, object] = {
    "quantization_config": FOURBIT,
    "compression_config": {"quant_method": "compressed-tensors"},
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "eager",
    "experts_implementation": "grouped_mm",
    "transformers_weights": "other.safetensors",
    "auto_map": {"AutoModelForCausalLM": "modeling_other.Other"},
    "fusion_config": {"patch_embeddings": True},
    "distributed_config": {"tp_plan": "auto"},
    "torchscript": True,
    "pruned_heads": {"0": [1]},
}


@pytest.mark.parametrize("keys", [["quantization_config"], ["auto_map"], list(KEYS)], ids=", ".join)
def test_what_says_how_to_load_the_config_source_does_not_slip_into_the_merge(
    family: Family, tmp_path: Path, keys: list[str]
) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    edit(base / "config.json", **{key: KEYS[key] for key in keys})
    recipe = ties(Family(str(base), family.a, family.b))
    notes: list[str] = []
    export_model(recipe, tmp_path / "merged", note=notes.append)
    assert not set(keys).intersection(json.loads((tmp_path / "merged" / "config.json").read_text()))
    (told,) = (note for note in notes if f"model {base}: its config.json says how to load it (" in note)
    assert sorted(told.partition("(")[2].partition(")")[0].split(", ")) == sorted(keys)
    assert_same_bits(tmp_path / "merged", scored(recipe))
    with ParentSet.open(recipe) as parents, torch.inference_mode():
        live = Merger(parents).apply(recipe)(TOKENS).logits
        loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        assert torch.equal(loaded(TOKENS).logits, live)


def test_a_config_of_its_own_dtype_and_class_does_not_slip_into_the_merge(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    edit(base / "config.json", torch_dtype="float64", dtype="float32", architectures=["LlamaForSequenceClassification"])
    export_model(ties(Family(str(base), family.a, family.b)), tmp_path / "merged")
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.dtype is torch.bfloat16
    assert config.architectures == ["LlamaForCausalLM"]


def test_a_tokenizer_with_code_that_is_not_executed_loads_without_it(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    edit(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_other.Other", None]})
    export_model(ties(Family(str(base), family.a, family.b)), tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("x").input_ids


# --- opening again --------------------------------------------------------------------------------------------------


def changed_text(**values: object) -> Callable[..., str]:
    return lambda text: json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    ("target", "values", "reason"),
    [
        ("config_text", {"intermediate_size": 96}, "has shape .* but its config says"),
        ("config_text", {"tie_word_embeddings": True}, "its config ties lm_head.weight"),
        ("config_text", {"num_hidden_layers": 2}, r"tensor model\.layers\.2\..*which its config does not provide for"),
        ("config_text", {"attention_bias": True}, "has no tensor .*bias"),
        ("config_text", {"dtype": "float32"}, "would load in float32, but was scored in bfloat16"),
        (
            "generation_config_text",
            {"eos_token_id": [3]},
            r"would end at the tokens \[3\], but ended at",
        ),
        ("generation_config_text", {"eos_token_id": None}, "would end at the tokens None, but ended at"),
    ],
)
def test_what_would_load_as_something_else_is_not_exported(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, values: dict[str, object], reason: str
) -> None:
    from merging.export import export

    make, change = getattr(export, target), changed_text(**values)
    monkeypatch.setattr(export, target, lambda *given: change(make(*given)))
    with pytest.raises(MergingError, match=f"{tmp_path}/merged: was not exported, .*{reason}"):
        export_model(ties(family), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", ["cut short", "another dtype", "one less"])
def test_weights_that_are_not_as_they_were_merged_are_not_exported(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    from merging.export import export

    write = export._write_weights

    def write_and_spoil(plan: Any, steps: Any, parents: Any, folder: Path, *given: Any) -> None:
        write(plan, steps, parents, folder, *given)
        file = folder / "model.safetensors"
        tensors = load_file(file)
        if spoil == "cut short":
            file.write_bytes(file.read_bytes()[:-9])
            return
        if spoil == "another dtype":
            tensors["lm_head.weight"] = tensors["lm_head.weight"].half()
        else:
            del tensors["model.norm.weight"]
        save_file(tensors, file, metadata={"format": "pt"})

    monkeypatch.setattr(export, "_write_weights", write_and_spoil)
    with pytest.raises(
        MergingError, match=r"was not exported, .*(not a complete safetensors file|not in the files as it)"
    ):
        export_model(ties(family), tmp_path / "merged")
    assert not list(tmp_path.iterdir())
