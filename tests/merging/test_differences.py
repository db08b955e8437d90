"""Parents whose tensors have one shape may still not mean the same: told, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merging import LoadOptions, MergeOptions, MergingError, ParentSet, Recipe
from tests.conftest import ModelMaker


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def swap(vocabulary: dict[str, int]) -> None:
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


@pytest.fixture
def parents(make_model: ModelMaker) -> tuple[Path, Path]:
    return Path(make_model("base")), Path(make_model("other", seed=1))


def average(parents: tuple[Path, Path], tokenizer_source: str | None = None) -> Recipe:
    return Recipe.average([str(parent) for parent in parents], tokenizer_source=tokenizer_source)


def notes(
    parents: tuple[Path, Path], tokenizer_source: str | None = None, allow_crimes: bool = False
) -> tuple[str, ...]:
    options = MergeOptions(load=LoadOptions(allow_crimes=allow_crimes))
    with ParentSet.open(average(parents, tokenizer_source), options) as opened:
        return opened.notes


def test_fine_tunes_of_one_model_have_nothing_to_tell(parents: tuple[Path, Path]) -> None:
    assert notes(parents) == ()


def test_heads_that_are_cut_otherwise_are_refused_though_the_tensors_fit(parents: tuple[Path, Path]) -> None:
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    change(parents[1] / "config.json", lambda config: config.update(heads))
    with pytest.raises(MergingError, match=r"other: has num_attention_heads 8, .*base has 4; .*--allow-crimes"):
        notes(parents)
    (note,) = notes(parents, allow_crimes=True)
    assert "has num_attention_heads 8" in note


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            lambda config: config["rope_parameters"].update(rope_theta=500.0),
            "has rope_parameters {{'rope_theta': 500.0",
        ),
        (lambda config: config.update(rms_norm_eps=0.1), "has rms_norm_eps 0.1, {base} has 1e-06"),
        (lambda config: config.update(hidden_act="gelu"), "has hidden_act gelu, {base} has silu"),
    ],
)
def test_what_is_computed_otherwise_is_told(
    parents: tuple[Path, Path], edit: Callable[[dict[str, Any]], object], told: str
) -> None:
    change(parents[1] / "config.json", edit)
    (note,) = notes(parents)
    assert note.startswith(f"model {parents[1]}: {told.format(base=parents[0])}")
    assert note.endswith("; the merge computes as the latter does")


def test_the_model_that_a_merge_computes_as_is_the_one_that_gives_its_config(make_model: ModelMaker) -> None:
    first, other = Path(make_model("first", tied=True)), Path(make_model("other", seed=1))
    change(other / "config.json", lambda config: config.update(rms_norm_eps=0.1))
    assert notes((first, other)) == (
        f"model {other}: has rms_norm_eps 0.1, {first} has 1e-06; the merge computes as the latter does",
    )


def test_ids_that_are_exchanged_are_told_where_rows_are_merged_by_id(parents: tuple[Path, Path]) -> None:
    change(parents[1] / "tokenizer.json", lambda content: swap(content["model"]["vocab"]))
    (note,) = notes(parents)
    assert note.startswith(
        f"model {parents[1]}: its tokenizer has other ids: 'b' has id 64 here, 65 there, 'a' has id 65 here, 64 there"
    )
    assert notes(parents, "base") == ()


def test_tokens_that_one_parent_alone_has_are_no_difference(parents: tuple[Path, Path]) -> None:
    added = {"id": 5000, "content": "<x>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    change(parents[1] / "tokenizer.json", lambda content: content["added_tokens"].append(added | flags))
    assert notes(parents) == ()


def test_a_tokenizer_that_cannot_be_read_is_told(parents: tuple[Path, Path]) -> None:
    (parents[1] / "tokenizer.json").write_text("{")
    (note,) = notes(parents)
    assert "its tokenizer.json cannot be compared" in note
