"""A tokenizer with code of its own is exported with that code, whichever parent it is from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from merging import ExportOptions, MergeOptions, MergingError, Recipe, export_model
from merging.options import LoadOptions
from tests.merging.conftest import Family

TRUSTING = MergeOptions(load=LoadOptions(trust_remote_code=True))
TOKENIZER = """
from transformers import PreTrainedTokenizerFast

from .names_of_own import NAME


class OwnTokenizer(PreTrainedTokenizerFast):
    own_name = NAME
"""


@pytest.fixture
def owner(family: Family, tmp_path: Path) -> Path:
    """Return a parent whose tokenizer has code of its own, and whose model's code the merge does not need."""
    owner = Path(shutil.copytree(family.a, tmp_path / "owner"))
    (owner / "tokenization_own.py").write_text(TOKENIZER)
    (owner / "names_of_own.py").write_text("NAME = 'owner'\n")
    (owner / "modeling_own.py").write_text("raise ImportError\n")
    settings = owner / "tokenizer_config.json"
    named = {"auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | named))
    return owner


def merge(family: Family, owner: Path, **more: Any) -> Recipe:
    """Return a merge whose config is the base's."""
    models = [{"model": str(owner), "parameters": {"weight": 0.5}}, {"model": family.b, "parameters": {"weight": 0.5}}]
    plain = {"merge_method": "task_arithmetic", "base_model": family.base, "models": models, "dtype": "bfloat16"}
    return Recipe.from_dict(plain | more, "test")


def assert_is_owners(export: Path) -> None:
    loaded: Any = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    assert (type(loaded).__name__, loaded.own_name) == ("OwnTokenizer", "owner")
    assert {file.name for file in export.glob("*.py")} == {"tokenization_own.py", "names_of_own.py"}


def test_the_code_comes_with_a_tokenizer_that_is_asked_for(family: Family, owner: Path, tmp_path: Path) -> None:
    export_model(merge(family, owner), tmp_path / "merged", TRUSTING, ExportOptions(tokenizer=str(owner)))
    assert_is_owners(tmp_path / "merged")


def test_the_code_comes_with_the_tokenizer_source(family: Family, owner: Path, tmp_path: Path) -> None:
    export_model(merge(family, owner, tokenizer_source=str(owner)), tmp_path / "merged", TRUSTING)
    assert_is_owners(tmp_path / "merged")


def test_two_files_of_one_name_are_refused_if_they_differ(family: Family, owner: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(family.base, tmp_path / "base"))
    for name in ("names_of_own.py", "tokenization_own.py"):
        shutil.copyfile(owner / name, base / name)
    mine = merge(Family(str(base), family.a, family.b), owner)
    export_model(mine, tmp_path / "same", TRUSTING, ExportOptions(tokenizer=str(owner)))
    assert_is_owners(tmp_path / "same")
    (base / "names_of_own.py").write_text("NAME = 'base'\n")
    with pytest.raises(
        MergingError, match=r"owner/names_of_own\.py: the tokenizer needs it, but .*base/names_of_own\.py"
    ):
        export_model(mine, tmp_path / "merged", TRUSTING, ExportOptions(tokenizer=str(owner)))
    assert not (tmp_path / "merged").exists()
