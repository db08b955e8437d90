"""A broken or unfitting model is refused before any merging, in a message that names it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Merger, MergingError, ParentSet, Recipe, load_model
from merging.checkpoints.checkpoint import Checkpoint, locate
from tests.conftest import ModelMaker
from tests.hubs import refusing_proxy, silent_hub
from tests.merging.conftest import Family


def refusal(*models: str) -> str:
    """Return the message with which the average of some models is refused."""
    with pytest.raises(MergingError) as caught:
        ParentSet.open(Recipe.average(models))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def broken(family: Family, tmp_path: Path) -> Path:
    """A copy of a fine-tune, to be broken."""
    return Path(shutil.copytree(family.a, tmp_path / "broken"))


@pytest.fixture
def broken_shards(qwen_family: Family, tmp_path: Path) -> Path:
    """The same of a model in several files."""
    return Path(shutil.copytree(qwen_family.a, tmp_path / "broken-shards"))


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["/no/such/model", "./no-such-model", "~/no-such-model", "no/such/model"])
def test_a_path_that_does_not_exist_is_named(family: Family, reference: str) -> None:
    assert refusal(family.a, reference) == f"model {reference}: no such folder"


def test_a_hub_id_that_cannot_be_had_is_named(family: Family) -> None:
    message = refusal(family.a, "no-such/model")
    assert message.startswith("model no-such/model: no such folder here, and not available from the hub: ")


@pytest.mark.parametrize("reference", ["no-such/silent", "no-such/silent@v1"])
def test_a_hub_that_never_answers_is_given_up_and_said_to_be_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reference: str
) -> None:
    monkeypatch.setattr("merging.checkpoints.checkpoint._QUIET_SECONDS", 0.0)
    with silent_hub(tmp_path, monkeypatch) as address, pytest.raises(MergingError) as caught:
        locate(reference)
    assert re.fullmatch(
        f"model {reference}: no such folder here, and not available from the hub: .*timed out.*; if it is a "
        "path, nothing is there: give a folder, or try again",
        str(caught.value),
    )
    assert f"model {reference}: fetching it from {address}; an unanswered request is given up" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"no HTTP at all\r\n\r\n",
    ],
)
@pytest.mark.parametrize("what", ["model", "adapter"])
def test_a_proxy_that_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, what: str
) -> None:
    with refusing_proxy(tmp_path, monkeypatch, answer), pytest.raises(MergingError) as caught:
        locate("no-such/behind-a-proxy", what=what)
    begin = f"{what} no-such/behind-a-proxy: no such folder here, and not available from the hub: "
    assert re.fullmatch(f"{begin}.*", str(caught.value))


def test_a_file_is_no_model(family: Family) -> None:
    file = f"{family.a}/model.safetensors"
    assert refusal(family.a, file).startswith(f"model {file}: is a file; give the folder")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _garble_the_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)


def _claim_a_huge_header(file: Path) -> None:
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])


def _put_a_page_in_its_place(file: Path) -> None:
    file.write_text("<!doctype html><html>Sign in to download</html>")


def _put_a_git_lfs_pointer_in_its_place(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n")


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _cut_in_the_header,
        _empty,
        _garble_the_header,
        _claim_a_huge_header,
        _put_a_page_in_its_place,
        _put_a_git_lfs_pointer_in_its_place,
    ],
)
def test_a_truncated_or_corrupted_file_is_named(family: Family, broken: Path, damage: Callable[[Path], None]) -> None:
    file = broken / "model.safetensors"
    damage(file)
    assert refusal(family.base, str(broken)).startswith(f"{file}: is not a complete safetensors file (")


def test_a_truncated_shard_is_named(qwen_family: Family, broken_shards: Path) -> None:
    shard = sorted(broken_shards.glob("model-*.safetensors"))[1]
    _cut(shard)
    assert refusal(qwen_family.base, str(broken_shards)).startswith(f"{shard}: is not a complete safetensors file (")


def test_a_missing_shard_is_named(qwen_family: Family, broken_shards: Path) -> None:
    shard = sorted(broken_shards.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert refusal(qwen_family.base, str(broken_shards)) == (
        f"model {broken_shards}: {shard.name} is missing (model.safetensors.index.json names it); "
        "download the model again"
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_named(qwen_family: Family, broken_shards: Path, content: str) -> None:
    index = broken_shards / "model.safetensors.index.json"
    index.write_text(content, encoding="utf-8")
    assert refusal(qwen_family.base, str(broken_shards)).startswith(f"{index}: is not an index of safetensors files")


def test_a_folder_without_weights_says_what_it_holds_instead(family: Family, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    assert refusal(family.base, str(broken)) == f"model {broken}: {broken} holds no *.safetensors files"
    (broken / "pytorch_model.bin").touch()
    assert refusal(family.base, str(broken)) == (
        f"model {broken}: {broken} holds torch pickles (pytorch_model.bin) and no safetensors; pass --lazy-unpickle "
        "(in a search's config, merging.lazy_unpickle: true) to read them, or save it as safetensors first"
    )


def test_a_file_that_is_cut_short_while_parents_are_resident_does_no_harm(family: Family, broken: Path) -> None:
    recipe = Recipe.average([family.base, str(broken)])
    with ParentSet.open(recipe) as parents:
        before = {name: tensor.clone() for name, tensor in Merger(parents).apply(recipe).state_dict().items()}
        _empty(broken / "model.safetensors")
        after = Merger(parents).apply(recipe).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model_type": "no_such_type"}',
        '{"model_type": "llama", "hidden_size": "wide"}',
        '{"model_type": "llama", "num_hidden_layers": -1}',
        '{"model_type": "llama", "hidden_size": 33, "num_attention_heads": 4}',
        '{"model_type": "llama", "num_attention_heads": 0}',
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_broken_config_is_refused_with_the_models_name(
    family: Family, broken: Path, content: str, first: bool
) -> None:
    (broken / "config.json").write_text(content, encoding="utf-8")
    models = [str(broken), family.base] if first else [family.base, str(broken)]
    assert refusal(*models).startswith(f"model {broken}: ")


def test_a_missing_config_is_refused_with_the_models_name(family: Family, broken: Path) -> None:
    (broken / "config.json").unlink()
    assert refusal(family.base, str(broken)).startswith(f"model {broken}: {broken} holds no config.json")


def test_a_config_of_another_width_than_the_weights_is_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}), encoding="utf-8")
    assert refusal(str(broken)) == (
        f"model {broken}: tensor model.layers.0.mlp.gate_proj.weight has shape [64, 32], but its config says "
        "[96, 32]; the files belong to different models"
    )


# --- parents that do not fit each other -----------------------------------------------------------------------------


def test_parents_of_different_shapes_are_refused(family: Family, make_model: ModelMaker) -> None:
    wider = make_model("wider", hidden=48)
    assert refusal(family.base, wider) == (
        f"model {wider}: tensor model.embed_tokens.weight has shape [262, 48], but in {family.base} it has "
        "[262, 32]; only models of one shape can be merged"
    )


def test_parents_of_different_architectures_are_refused(family: Family, make_model: ModelMaker) -> None:
    other = make_model("other", architecture="qwen2")
    assert refusal(family.base, other) == (
        f"model {other}: is a qwen2 model, but {family.base} is a llama model; only models of one architecture can be "
        "merged, unless --allow-crimes (allow_crimes=True) takes those whose tensors fit"
    )


def test_parents_of_different_depth_are_refused_unless_sliced(family: Family, make_model: ModelMaker) -> None:
    deeper = make_model("deeper", layers=4)
    recipe = Recipe.average([family.base, deeper])
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError) as caught:
        Merger(parents).steps(recipe)
    assert str(caught.value) == (
        f"models of different depth cannot be merged whole ({family.base} has 3, {deeper} has 4 layers); use slices"
    )


def test_layers_that_a_parent_does_not_have_are_refused(family: Family) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: {family.a}, layer_range: [1, 5]}}]}}]"
    recipe = Recipe.parse(text)
    with ParentSet.open(recipe) as parents, pytest.raises(MergingError) as caught:
        Merger(parents).steps(recipe)
    assert str(caught.value) == (
        f"<recipe>: slices[0].sources[0].layer_range: [1, 5] goes beyond the 3 layers of {family.a}; it is [first, one "
        "past the last], and [0, 3] is all of them"
    )


def test_a_missing_tensor_is_named(family: Family, broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors")
    assert refusal(family.base, str(broken)) == (
        f"model {broken}: has no tensor model.layers.1.mlp.up_proj.weight, which its config asks for; download or save "
        "it again"
    )


def test_files_that_end_before_the_last_layer_are_refused(family: Family, broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("model.layers.2.")}, broken / "model.safetensors")
    assert refusal(family.base, str(broken)) == (
        f"model {broken}: its files hold 2 layers, but its config says 3; "
        "the files belong to different models, or some are missing"
    )


def test_quantized_weights_are_refused(family: Family, broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, broken / "model.safetensors")
    assert refusal(family.base, str(broken)) == (
        f"{broken}/model.safetensors: tensor model.norm.weight is stored as F8_E4M3; "
        "save the model as bfloat16, float16 or float32"
    )


# --- what is right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["family", "qwen_family"])
def test_a_whole_model_is_opened_with_all_its_tensors(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind).a
    checkpoint = Checkpoint.open(folder)
    expected = {name: tensor for file in Path(folder).glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.read(name), tensor)
    assert checkpoint.dtype == torch.bfloat16


def test_a_plain_checkpoint_is_loaded_in_the_dtype_that_it_is_saved_in(family: Family, broken: Path) -> None:
    assert load_model(family.a).dtype == torch.bfloat16
    assert load_model(family.a, dtype="float32").dtype == torch.float32
    _cut(broken / "model.safetensors")
    with pytest.raises(MergingError, match="is not a complete safetensors file"):
        load_model(str(broken))
