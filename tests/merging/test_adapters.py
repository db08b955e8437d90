"""A LoRA adapter on a base model is a parent with the bits that peft's merge_and_unload gives; any other is refused."""

from __future__ import annotations

import json
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from merging import (
    LoadOptions,
    MergeOptions,
    Merger,
    MergingError,
    ParentSet,
    Recipe,
    contents_of,
    export_model,
    load_model,
)
from merging.checkpoints.checkpoint import Checkpoint, _download
from tests.conftest import ModelMaker
from tests.merging.conftest import Family
from tests.merging.peft_oracle import peft_merge, save_adapter
from tests.parametrization import every

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ALL},
    "rank-stabilised": {"target_modules": ALL, "use_rslora": True},
    "patterns": {
        "target_modules": ALL,
        "rank_pattern": {"layers.1.self_attn.q_proj": 7, ".*down_proj": 2},
        "alpha_pattern": {r"model\.layers\.[01].*proj": 5, "up_proj": 1},
    },
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "saved modules": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "dora": {"target_modules": [*ALL, "embed_tokens"], "use_dora": True},
}
BIASES: dict[str, dict[str, Any]] = {
    "biases of targets": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of B": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
}
TIED: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
    "saved as one": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


def check(base: str, adapter: str, at_least: int = 1) -> None:
    """Assert that every tensor has the bits that peft gives it, and that some are not the base's."""
    ours, expected, plain = Checkpoint.open(f"{base}+{adapter}"), peft_merge(base, adapter), Checkpoint.open(base)
    assert ours.tensors.keys() <= expected.keys()
    for name in ours.tensors:
        merged = ours.read(name)
        assert merged.dtype == expected[name].dtype == plain.tensors[name].dtype
        assert torch.equal(merged, expected[name]), name
    changed = [name for name in ours.tensors if not torch.equal(ours.read(name), plain.read(name))]
    assert sorted(changed) == sorted(ours.adapted())
    assert len(changed) >= at_least


@pytest.mark.parametrize(
    ("kind", "dtype"),
    every(3, [*zip(KINDS, cycle(["bfloat16", "float16"]), strict=False), *((kind, "float32") for kind in KINDS)]),
)
def test_an_adapter_is_merged_as_peft_does(make_model: ModelMaker, tmp_path: Path, kind: str, dtype: str) -> None:
    base = make_model("base", dtype=dtype)
    check(base, save_adapter(base, tmp_path / "adapter", **KINDS[kind]), at_least=3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", BIASES)
def test_biases_are_merged_as_peft_does(make_model: ModelMaker, tmp_path: Path, kind: str, dtype: str) -> None:
    base = make_model("base", architecture="qwen2", dtype=dtype)
    options = BIASES[kind] | {"target_modules": [m for m in BIASES[kind]["target_modules"] if m != "o_proj"]}
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    check(base, adapter, at_least=6)
    assert any(name.endswith(".bias") for name in Checkpoint.open(f"{base}+{adapter}").adapted())


@pytest.mark.parametrize("kind", TIED)
def test_a_tied_head_and_its_embedding_stay_one_tensor(make_model: ModelMaker, tmp_path: Path, kind: str) -> None:
    base = make_model("base", architecture="qwen2", tied=True)
    check(base, save_adapter(base, tmp_path / "adapter", **TIED[kind]))


@pytest.mark.parametrize("saved", ["lm_head", "embed_tokens"])
def test_a_head_apart_from_the_embedding_that_it_is_tied_to_is_refused(
    make_model: ModelMaker, tmp_path: Path, saved: str
) -> None:
    base = make_model("base", architecture="qwen2", tied=True)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=[saved])
    with pytest.raises(MergingError, match=rf"^adapter {adapter}: holds its own \S*{saved}.weight, which {base}"):
        Checkpoint.open(f"{base}+{adapter}")


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_that_lie_the_other_way_round_are_merged_as_peft_does(
    tmp_path: Path, dtype: str, use_dora: bool
) -> None:
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False))
    base = str(tmp_path / "base")
    model.to(getattr(torch, dtype)).save_pretrained(base)
    # c_proj of the attention is square, so that its shape alone does not tell; lm_head is the usual way round.
    targets = ["c_attn", "c_proj", "c_fc", "lm_head"]
    check(base, save_adapter(base, tmp_path / "adapter", target_modules=targets, use_dora=use_dora), at_least=9)


@pytest.mark.parametrize("saved_as", [torch.float16, torch.bfloat16, torch.float64])
def test_an_adapter_may_be_saved_in_any_dtype(family: Family, tmp_path: Path, saved_as: torch.dtype) -> None:
    adapter = save_adapter(family.base, tmp_path / "adapter", target_modules=ALL)
    file = Path(adapter) / "adapter_model.safetensors"
    save_file({name: tensor.to(saved_as) for name, tensor in load_file(file).items()}, file)
    check(family.base, adapter)


def test_an_adapter_may_be_a_pickle(family: Family, tmp_path: Path) -> None:
    adapter = Path(save_adapter(family.base, tmp_path / "adapter", target_modules=["q_proj"]))
    plain = Checkpoint.open(f"{family.base}+{adapter}")
    expected = {name: plain.read(name) for name in plain.tensors}
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(MergingError, match="--lazy-unpickle"):
        Checkpoint.open(f"{family.base}+{adapter}")
    found = Checkpoint.open(f"{family.base}+{adapter}", options=LoadOptions(lazy_unpickle=True))
    assert all(torch.equal(found.read(name), expected[name]) for name in expected)


# --- as a parent ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(family: Family, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter for the family's base, which tests leave as it is."""
    return save_adapter(family.base, tmp_path_factory.mktemp("made") / "adapter", target_modules=["q_proj", "v_proj"])


@pytest.fixture
def adapter(made: str, tmp_path: Path) -> str:
    """An adapter for the family's base, which a test may change."""
    return str(shutil.copytree(made, tmp_path / "adapter"))


def test_an_adapted_parent_is_merged_like_the_model_that_peft_saves(
    family: Family, adapter: str, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    export_model(Recipe.single(f"{family.base}+{adapter}"), merged)
    made = []
    for model in (f"{family.base}+{adapter}", str(merged)):
        text = f"""
merge_method: ties
base_model: {family.base}
models: [{{model: {model}}}, {{model: {family.a}}}]
parameters: {{density: 0.5, weight: 0.5}}
"""
        recipe = Recipe.parse(text)
        with ParentSet.open(recipe) as parents:
            made.append({n: t.clone() for n, t in Merger(parents).apply(recipe).state_dict().items()})
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    expected = peft_merge(family.base, adapter)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(merged / "model.safetensors").items())


def test_an_adapted_model_is_loaded_with_its_adapter(family: Family, adapter: str) -> None:
    loaded = load_model(f"{family.base}+{adapter}").state_dict()
    expected = peft_merge(family.base, adapter)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_what_an_adapter_leaves_alone_is_kept_in_memory_once(family: Family, adapter: str) -> None:
    recipe = Recipe.average([family.base, f"{family.base}+{adapter}"])
    with ParentSet.open(recipe) as parents:
        parents.load()
        own = "model.layers.0.self_attn.q_proj.weight"
        for name in Checkpoint.open(family.base).tensors:
            one, other = (parents.tensor(parent, name) for parent in recipe.parents())
            assert (one is other) == (name not in parents.checkpoints[recipe.parents()[1]].adapted())
        assert not torch.equal(*(parents.tensor(parent, own) for parent in recipe.parents()))


def test_the_long_form_of_a_reference_names_the_adapter(family: Family, adapter: str) -> None:
    text = f"merge_method: passthrough\nmodels: [{{model: {{model: {family.base}, lora: {{path: {adapter}}}}}}}]"
    recipe = Recipe.parse(text)
    assert recipe.parents() == (f"{family.base}+{adapter}",)
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_signs_in_the_paths_of_a_model_and_its_adapter_survive_the_round_trip(family: Family, tmp_path: Path) -> None:
    base, adapter = tmp_path / "c++@1", tmp_path / "lora+a@2"
    base.symlink_to(family.base)
    save_adapter(family.base, adapter, target_modules=["q_proj"])
    recipe = Recipe.single(f"{base}+{adapter}")
    assert len(Checkpoint.open(recipe.parents()[0]).adapted()) == 3
    assert Recipe.parse(recipe.to_yaml()) == recipe
    (model,) = MergeConfiguration.model_validate(yaml.safe_load(recipe.to_yaml())).referenced_models()
    assert (model.model.path, model.lora.path) == (str(base), str(adapter))


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(reference: str) -> str:
    """Return the one line with which a reference is refused."""
    with pytest.raises(MergingError) as caught:
        Checkpoint.open(reference)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configure(adapter: str, **changes: object) -> None:
    """Change an adapter's config."""
    file = Path(adapter) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_an_adapter_for_a_deeper_base_is_refused(family: Family, make_model: ModelMaker, tmp_path: Path) -> None:
    deeper = make_model("deeper", layers=4)
    adapter = save_adapter(deeper, tmp_path / "adapter", target_modules=["q_proj"])
    assert refusal(f"{family.base}+{adapter}") == (
        f"adapter {adapter}: changes the module model.layers.3.self_attn.q_proj, which {family.base} does not have; "
        f"it is for another base model (its config names {deeper})"
    )


def test_an_adapter_for_a_wider_base_is_refused(family: Family, make_model: ModelMaker, tmp_path: Path) -> None:
    wider = make_model("wider", hidden=48)
    adapter = save_adapter(wider, tmp_path / "adapter", target_modules=["q_proj"])
    assert refusal(f"{family.base}+{adapter}") == (
        f"adapter {adapter}: changes model.layers.0.self_attn.q_proj.weight as a tensor of shape [48, 48], but in "
        f"{family.base} it has [32, 32]; it is for another base model (its config names {wider})"
    )


def test_a_bias_that_the_base_does_not_have_is_refused(family: Family, make_model: ModelMaker, tmp_path: Path) -> None:
    qwen = make_model("qwen", architecture="qwen2")
    adapter = save_adapter(qwen, tmp_path / "adapter", target_modules=["q_proj"], bias="lora_only")
    assert "changes the tensor model.layers.0.self_attn.q_proj.bias, which" in refusal(f"{family.base}+{adapter}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "is of the kind LOHA"),
        ({"init_lora_weights": "pissa"}, "changes its base when it is loaded (init_lora_weights: pissa)"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "uses layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "uses target_parameters"),
        ({"trainable_token_indices": [1, 2]}, "uses trainable_token_indices"),
        (
            {"peft_type": "LOHA", "init_lora_weights": "pissa", "use_qalora": True},
            "is of the kind LOHA and changes its base when it is loaded (init_lora_weights: pissa) and uses use_qalora",
        ),
        ({"r": 8}, "the rank 8, but its matrices have the shapes [4, 32] and [32, 4]"),
        ({"use_dora": True}, "use_dora and the file disagree about model.layers.0.self_attn.q_proj"),
    ],
)
def test_adapters_of_other_kinds_are_refused(
    family: Family, adapter: str, change: dict[str, object], words: str
) -> None:
    configure(adapter, **change)
    message = refusal(f"{family.base}+{adapter}")
    assert message.startswith(f"adapter {adapter}: ")
    assert words in message


def test_half_an_adapter_is_refused(family: Family, adapter: str) -> None:
    file = Path(adapter) / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    save_file(tensors, file)
    assert refusal(f"{family.base}+{adapter}") == (
        f"adapter {adapter}: lacks one of the two matrices of model.layers.1.self_attn.v_proj"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"peft_type": "LORA", "r": "four", "lora_alpha": 8}'])
def test_a_broken_config_of_an_adapter_is_named(family: Family, adapter: str, content: str) -> None:
    (Path(adapter) / "adapter_config.json").write_text(content, encoding="utf-8")
    assert refusal(f"{family.base}+{adapter}").startswith(f"{adapter}/adapter_config.json: ")


def test_a_folder_that_is_no_adapter_is_named(family: Family) -> None:
    assert refusal(f"{family.base}+{family.a}") == (
        f"adapter {family.a}: {family.a} holds no adapter_config.json; give the folder that peft saved"
    )
    assert refusal(f"{family.base}+/no/such") == "adapter /no/such: no such folder"
    assert refusal(f"/no/such+{family.a}") == "model /no/such: no such folder"


def test_an_adapter_alone_is_no_model(adapter: str) -> None:
    assert refusal(adapter) == f"model {adapter}: is a LoRA adapter; write it after its base model, as BASE+{adapter}"


@pytest.fixture
def cached(family: Family, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a model and an adapter into the hub's cache: some/base@v1 and some/adapter@v1."""
    for name, folder in (("models--some--base", family.base), ("models--some--adapter", adapter)):
        (tmp_path / "hub" / name / "refs").mkdir(parents=True)
        (tmp_path / "hub" / name / "refs" / "v1").write_text("0" * 40, encoding="utf-8")
        shutil.copytree(folder, tmp_path / "hub" / name / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _download.cache_clear()  # as another process would find it


@pytest.mark.usefixtures("cached")
def test_a_model_and_an_adapter_may_be_hub_ids_with_revisions(family: Family, adapter: str) -> None:
    found, local = Checkpoint.open("some/base@v1+some/adapter@v1"), Checkpoint.open(f"{family.base}+{adapter}")
    assert found.adapted().keys() == local.adapted().keys()
    assert all(torch.equal(found.read(name), local.read(name)) for name in local.tensors)
    assert refusal("some/base@v1+some/other").startswith("adapter some/other: no such folder here, and not available")


@pytest.mark.usefixtures("cached")
def test_the_hub_is_asked_once_about_a_model_and_its_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(side_effect=huggingface_hub.snapshot_download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    reference, options = "some/base@v1+some/adapter@v1", LoadOptions(trust_remote_code=True)
    list(contents_of(reference, options))
    tokenizer = "tokenizer: {source: base, tokens: {<new>: {source: {kind: zero}}}}"
    recipe = Recipe.parse(f"{Recipe.single(reference).to_yaml()}\n{tokenizer}")
    export_model(recipe, tmp_path / "out", MergeOptions(load=options))
    assert [call.args[0] for call in asked.call_args_list] == ["some/base", "some/adapter"]
