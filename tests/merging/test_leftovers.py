"""Leftovers in configs: keys that nothing reads, that differ between models, or that do not hold for the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.leftovers import (
    differing_keys,
    generates_without_cache,
    ignored_keys,
    says_other_dtype,
)
from tests.conftest import ModelMaker
from tests.tiny import CONFIGS


def edited(model: str, without: str = "", **values: object) -> Checkpoint:
    file = Path(model, "config.json")
    content = json.loads(file.read_text()) | values
    content.pop(without, None)
    file.write_text(json.dumps(content))
    return Checkpoint.open(model)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_transformers_itself_writes_is_no_leftover(make_model: ModelMaker, architecture: str) -> None:
    one, other = (Checkpoint.open(make_model(name, architecture=architecture)) for name in ("one", "other"))
    # The tiny models give all architectures the same settings, of which this one does not know one.
    assert ignored_keys(one) == (["num_key_value_heads"] if architecture == "gpt_neox" else [])
    assert list(differing_keys(one, other)) == []
    assert says_other_dtype(one) == ""
    assert not generates_without_cache(one)


def test_keys_of_other_programs_are_ignored_and_old_names_are_not(make_model: ModelMaker) -> None:
    old = {"rope_scaling": None, "rope_theta": 1e4, "torch_dtype": "bfloat16", "temperature": 0.7}
    model = edited(make_model("one"), unsloth_version="2026.1", quantization_config={"bits": 4}, **old)
    assert ignored_keys(model) == ["unsloth_version"]


def test_keys_differ_by_what_transformers_makes_of_them(make_model: ModelMaker) -> None:
    one = edited(make_model("one"), max_position_embeddings=4096, attention_dropout=0.1, use_cache=False)
    other = edited(make_model("other"), without="attention_bias")
    assert list(differing_keys(one, other)) == [("max_position_embeddings", 4096, 2048)]


def test_a_dtype_is_told_that_the_weights_do_not_have(make_model: ModelMaker) -> None:
    assert says_other_dtype(edited(make_model("one"), dtype="float32")) == "float32"
    assert says_other_dtype(edited(make_model("two"), without="dtype", torch_dtype="float16")) == "float16"
    assert says_other_dtype(edited(make_model("three"), without="dtype")) == ""


def test_a_generation_config_decides_about_the_cache_before_the_config(make_model: ModelMaker) -> None:
    model = make_model("one")
    assert not generates_without_cache(edited(model, use_cache=False))
    Path(model, "generation_config.json").unlink()
    assert generates_without_cache(Checkpoint.open(model))
