"""`merge-search merge` has the switches of mergekit-yaml, by its names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from mergekit.options import MergeOptions  # type: ignore[import-untyped]
from safetensors.torch import load_file
from tokenizers import Tokenizer

from merging import LoadOptions, load_model
from search.cli import main
from tests.search.conftest import Command
from tests.search.family import NO_REPORT, Family
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

SWITCHES = ("out_shard_size", "copy_tokenizer", "allow_crimes", "trust_remote_code", "write_model_card", "random_seed")


def linear(folder: Path, models: list[Path], more: str = "") -> Path:
    """Write a recipe that averages some models."""
    listed = ", ".join(f"{{model: {model}, parameters: {{weight: 1}}}}" for model in models)
    (folder / "linear.yaml").write_text(f"merge_method: linear\nmodels: [{listed}]\n{more}\n")
    return folder / "linear.yaml"


def succeeded(result: Result) -> None:
    """Fail with what a command printed unless it ended well."""
    assert result.exit_code == 0, result.output


def refused(result: Result, *words: str) -> None:
    """Fail unless a command ended with one message that holds these words."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_has_the_name_and_the_kind_that_mergekit_gives_it(name: str) -> None:
    ours = next(option for option in main.commands["merge"].params if f"--{name.replace('_', '-')}" in option.opts)
    kind = MergeOptions.model_fields[name].annotation
    assert (f"--no-{name.replace('_', '-')}" in ours.secondary_opts) == (kind is bool)


@pytest.mark.parametrize("option", ["--out-shard-size", "--max-shard-size"])
@pytest.mark.parametrize("size", ["40K", "40KB", "0.04M"])
def test_shards_keep_to_their_size(command: Command, family: Family, tmp_path: Path, option: str, size: str) -> None:
    succeeded(command("merge", linear(tmp_path, [family.a, family.b]), tmp_path / "out", option, size))
    sizes = [sum(each.nbytes for each in load_file(file).values()) for file in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) > 1
    assert max(sizes) <= 40_000


def test_a_size_without_a_unit_is_refused(command: Command, family: Family, tmp_path: Path) -> None:
    result = command("merge", linear(tmp_path, [family.a]), tmp_path / "out", "--out-shard-size", "5")
    refused(result, "'5' is not a size; write it like 5GB or 500MB (or 5B, 500M)")


def test_the_tokenizer_is_copied_unless_it_is_left_out(command: Command, family: Family, tmp_path: Path) -> None:
    recipe = linear(tmp_path, [family.a, family.b])
    succeeded(command("merge", recipe, tmp_path / "with", "--copy-tokenizer"))
    succeeded(command("merge", recipe, tmp_path / "without", "--no-copy-tokenizer"))
    left_out = {file.name for file in (tmp_path / "with").iterdir()} - {
        file.name for file in (tmp_path / "without").iterdir()
    }
    assert left_out == {"tokenizer.json", "tokenizer_config.json"}


def test_a_merge_without_any_tokenizer_must_leave_it_out(command: Command, family: Family, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (family.a / name).unlink()
    recipe = linear(tmp_path, [family.a, family.b])
    refused(command("merge", recipe, tmp_path / "out"), f"model {family.a}: has no tokenizer", "--no-copy-tokenizer")
    succeeded(command("merge", recipe, tmp_path / "out", "--no-copy-tokenizer"))
    assert load_model(str(tmp_path / "out")).config.eos_token_id == 257


def test_a_tokenizer_that_the_recipe_asks_for_is_written_all_the_same(
    command: Command, family: Family, tmp_path: Path
) -> None:
    recipe = linear(tmp_path, [family.a, family.b], "tokenizer_source: union")
    succeeded(command("merge", recipe, tmp_path / "out", "--no-copy-tokenizer"))
    assert Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).get_vocab_size() == 262


def test_a_chat_template_needs_a_tokenizer(command: Command, family: Family, tmp_path: Path) -> None:
    recipe = linear(tmp_path, [family.a], "chat_template: chatml")
    refused(command("merge", recipe, tmp_path / "out", "--no-copy-tokenizer"), "chat_template: needs a tokenizer")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("switch", "written"), [("--write-model-card", True), ("--no-write-model-card", False)])
def test_the_model_card_is_written_unless_it_is_left_out(
    command: Command, family: Family, tmp_path: Path, switch: str, written: bool
) -> None:
    succeeded(command("merge", linear(tmp_path, [family.a]), tmp_path / "out", switch))
    assert (tmp_path / "out/README.md").exists() == written
    assert (tmp_path / "out/recipe.yaml").exists()


def test_the_seed_decides_what_is_dropped(command: Command, family: Family, tmp_path: Path) -> None:
    recipe = tmp_path / "dare.yaml"
    recipe.write_text(
        f"merge_method: dare_linear\nbase_model: {family.base}\nmodels: [{{model: {family.a}}}]\n"
        "parameters: {density: 0.5, weight: 1}\n"
    )
    for name, seed in (("one", "1"), ("again", "1"), ("two", "2")):
        succeeded(command("merge", recipe, tmp_path / name, "--random-seed", seed))
    one, again, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "again", "two"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], two[name]) for name in one)


# --- crimes ---------------------------------------------------------------------------------------------------------


def test_other_architectures_are_merged_only_where_that_is_allowed(
    command: Command, family: Family, tmp_path: Path
) -> None:
    mistral = Path(save_tiny_model(tmp_path / "mistral", TinyModel(seed=3, architecture="mistral")))
    recipe = linear(tmp_path, [family.a, mistral])
    refused(command("merge", recipe, tmp_path / "out"), "is a mistral model", "--allow-crimes")
    refused(command("merge", recipe, tmp_path / "out", "--dry-run"), "--allow-crimes")
    succeeded(command("merge", recipe, tmp_path / "out", "--allow-crimes", "--dry-run"))
    succeeded(command("merge", recipe, tmp_path / "out", "--allow-crimes"))
    assert load_model(str(tmp_path / "out")).config.model_type == "llama"
    parents = [load_file(model / "model.safetensors")["model.norm.weight"].float() for model in (family.a, mistral)]
    merged = load_file(tmp_path / "out/model.safetensors")["model.norm.weight"]
    assert torch.equal(merged, ((parents[0] + parents[1]) / 2).to(merged.dtype))


def test_a_crime_whose_tensors_do_not_fit_is_explained(command: Command, family: Family, tmp_path: Path) -> None:
    qwen = Path(save_tiny_model(tmp_path / "qwen", TinyModel(architecture="qwen2")))
    (tmp_path / "here").mkdir()
    recipe = linear(tmp_path / "here", [qwen, family.a])
    refused(
        command("merge", recipe, tmp_path / "out", "--allow-crimes"),
        f"model {family.a}: has no tensor model.layers.0.self_attn.q_proj.bias",
    )


@pytest.mark.slow
def test_parents_that_do_not_mean_the_same_are_told_or_refused(
    command: Command, family: Family, tmp_path: Path
) -> None:
    recipe = linear(tmp_path, [family.a, family.b])
    file = family.b / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    told = f"model {family.b}: has rms_norm_eps 0.5, "
    search = family.write(evaluation=NO_REPORT)
    for words in (
        ["merge", recipe, tmp_path / "out"],
        ["merge", recipe, tmp_path / "out", "--dry-run"],
        ["run", search, "--out", tmp_path / "run", "--dry-run"],
        ["run", search, "--out", tmp_path / "run", "--trials", "1"],
    ):
        done = command(*words)
        assert done.exit_code == 0
        assert told in done.stderr
        assert " has 1e-06; the merge" in done.stderr
    file.write_text(json.dumps(config | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}))
    for words in (["merge", recipe, tmp_path / "other"], ["run", search, "--out", tmp_path / "other"]):
        refused(command(*words), f"model {family.b}: has num_attention_heads 8", "--allow-crimes")
    assert not (tmp_path / "other").exists()


# --- code of a model's own ------------------------------------------------------------------------------------------

CONFIGURATION = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}


@pytest.fixture
def own_code(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Return a family whose architecture is code that lies beside its weights."""
    # transformers copies such code into a folder of its cache, which it then imports from.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    for model in (family.base, family.a, family.b):
        config = json.loads((model / "config.json").read_text())
        config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": AUTO_MAP}
        (model / "config.json").write_text(json.dumps(config))
        (model / "configuration_own.py").write_text(CONFIGURATION)
        (model / "modeling_own.py").write_text(MODELING)
    return family


def test_code_of_a_model_is_executed_only_where_it_is_trusted(
    command: Command, own_code: Family, tmp_path: Path
) -> None:
    recipe = linear(tmp_path, [own_code.a, own_code.b])
    refused(
        command("merge", recipe, tmp_path / "out"),
        f"model {own_code.a}: comes with its own Python code",
        "--trust-remote-code",
    )
    assert not (tmp_path / "modules").exists()
    succeeded(command("merge", recipe, tmp_path / "out", "--trust-remote-code", "--dry-run"))
    succeeded(command("merge", recipe, tmp_path / "out", "--trust-remote-code"))
    assert {"configuration_own.py", "modeling_own.py"} <= {file.name for file in (tmp_path / "out").iterdir()}
    model = load_model(str(tmp_path / "out"), options=LoadOptions(trust_remote_code=True))
    assert type(model).__name__ == "OwnForCausalLM"
    assert torch.isfinite(model(torch.arange(8).view(1, 8)).logits).all()


@pytest.mark.slow
def test_a_model_with_code_of_its_own_is_evaluated_where_it_is_trusted(
    command: Command, own_code: Family, tmp_path: Path
) -> None:
    options = ["--problems", own_code.problems, "--max-new-tokens", "4", "--allow-code-execution", "--json"]
    recipe = linear(tmp_path, [own_code.a])
    for model in (own_code.a, recipe):
        refused(command("evaluate", model, *options), "--trust-remote-code")
        succeeded(command("evaluate", model, *options, "--trust-remote-code"))


@pytest.mark.slow
def test_a_search_trusts_code_where_its_config_says_so(command: Command, own_code: Family, tmp_path: Path) -> None:
    refused(command("run", own_code.write(), "--out", tmp_path / "run"), "merging.trust_remote_code: true")
    config = own_code.write(evaluation=NO_REPORT, more="merging: {trust_remote_code: true}")
    succeeded(command("run", config, "--out", tmp_path / "run", "--dry-run"))
    succeeded(command("run", config, "--out", tmp_path / "run", "--trials", "1"))
    succeeded(command("export", tmp_path / "run", "--to", tmp_path / "out", "--anyway"))
    assert (
        type(load_model(str(tmp_path / "out"), options=LoadOptions(trust_remote_code=True))).__name__
        == "OwnForCausalLM"
    )


# --- a search over different vocabularies ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_merges_parents_of_different_vocabularies(command: Command, family: Family, tmp_path: Path) -> None:
    vocabulary = TinyVocabulary(words=("de", "def"), added=("<|end|>",))
    save_tiny_model(family.b, TinyModel(seed=2, vocabulary=vocabulary))
    base = "base_model: base"
    config = family.write(evaluation=NO_REPORT)
    config.write_text(config.read_text().replace(base, f"{base}\n  tokenizer_source: union"))
    succeeded(command("run", config, "--out", tmp_path / "run", "--trials", "1"))
    board = json.loads(command("leaderboard", tmp_path / "run", "--json").stdout)
    assert {row["state"] for row in board["rows"]} == {"complete"}
    assert "average" in {row["kind"] for row in board["rows"]}
    succeeded(command("export", tmp_path / "run", "--to", tmp_path / "out", "--anyway"))
    assert load_model(str(tmp_path / "out")).config.vocab_size == 265
