"""What of a parent neither a merge nor its score has is said: tensors without a place, settings of generation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import ParentSet, Recipe, export_model, load_model
from merging.checkpoints.differences import left_out
from merging.notes import parent_notes
from tests.merging.conftest import Family


def changed(family: Family, folder: Path, extra: tuple[str, ...] = (), **settings: object) -> str:
    """Return a copy of a parent with more tensors in its files, and more settings of generation."""
    shutil.copytree(family.a, folder)
    tensors = load_file(folder / "model.safetensors") | {name: torch.zeros(2) for name in extra}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["v_head.summary.weight", "v_head.summary.bias"], "v_head.* (2)"),
        (["score.weight"], "score.weight"),
        ([f"vision_tower.layers.{index}.weight" for index in range(30)], "vision_tower.* (30)"),
        (["model.vision.a", "model.vision.b", "model.layers.3.enorm", "model.layers.3.proj"],
         "model.vision.* (2), model.layers.3.* (2)"),
        (["a.x", "b.x", "c.x", "d.x", "e.x"], "a.x, b.x, c.x, and 2 more"),
        (["model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"], ""),
    ],
)  # fmt: skip
def test_tensors_are_named_by_their_module(names: list[str], words: str) -> None:
    assert left_out(names) == words


@pytest.mark.parametrize("extra", [("v_head.summary.weight", "v_head.summary.bias"), ("score.weight",)])
def test_a_parent_whose_tensors_a_merge_drops_is_named(family: Family, tmp_path: Path, extra: tuple[str, ...]) -> None:
    model = changed(family, tmp_path / "more", extra)
    said: list[str] = []
    load_model(model, note=said.append)
    assert said == [f"model {model}: these tensors in its files are not used: {left_out(extra)}"]
    with ParentSet.open(Recipe.average([model, family.b])) as parents:
        assert parents.notes == (f"model {model}: a merge leaves out these tensors of its files: {left_out(extra)}",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repetition_penalty": 1.3}, "repetition_penalty 1.3"),
        ({"no_repeat_ngram_size": 3, "num_beams": 4}, "no_repeat_ngram_size 3, num_beams 4"),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.8}, "sampling (temperature 0.7, top_p 0.8)"),
        ({"do_sample": True, "suppress_tokens": [7]}, "suppress_tokens [7], sampling"),
        ({"temperature": 0.7}, ""),
        ({"do_sample": False, "repetition_penalty": 1.0}, ""),
    ],
)
def test_settings_that_scoring_leaves_out_are_named(
    family: Family, tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    model = changed(family, tmp_path / "asks", **settings)
    said: list[str] = []
    load_model(model, note=said.append)
    wanted = [f"model {model}: its generation_config.json asks for {words}; scoring ignores that"] if words else []
    assert said == wanted
    with ParentSet.open(Recipe.average([family.b, model])) as parents:
        assert parent_notes(parents) == wanted


def test_a_merge_says_whose_settings_its_files_have(family: Family, tmp_path: Path) -> None:
    config_source, other = (
        changed(family, tmp_path / name, repetition_penalty=number) for name, number in (("one", 1.1), ("two", 1.2))
    )
    said: list[str] = []
    export_model(Recipe.average([config_source, other]), tmp_path / "merged", note=said.append)
    assert said[:2] == [
        f"model {config_source}: its generation_config.json asks for repetition_penalty 1.1; so do the merge's files, "
        "but scores were made without it",
        f"model {other}: its generation_config.json asks for repetition_penalty 1.2; the merge's files leave it out",
    ]
    written = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert written["repetition_penalty"] == 1.1
