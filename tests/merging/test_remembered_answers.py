"""What transformers said about a model is remembered for the same question only; a merge then does without it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from merging import LoadOptions, MergeOptions, MergingError, Recipe, export_model
from merging.checkpoints import remembered_answers
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.remembered_answers import remembered
from tests.merging.conftest import Family, make_family
from tests.merging.recipes import recipes


@pytest.fixture
def empty_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begin without anything remembered, and return where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("merging.checkpoints.remembered_answers.cache_folder", memo_folder)
    return tmp_path / "cache" / "merge-search" / "memo"


def memo_folder(kind: str) -> Path | None:
    """The real one, which the suite's own stands in for elsewhere."""
    from merging.caches import cache_folder

    return cache_folder(kind)


def answers(*given: Any) -> Callable[[], Any]:
    """Return a question's answers, one a time that it is asked."""
    left = iter(given)
    return lambda: next(left)


# --- what is remembered ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_memo")
def test_a_question_is_asked_once_and_the_answer_is_the_same_when_it_is_remembered() -> None:
    ask = answers({"names": ("a", "b")}, "another")
    assert remembered(["q", 1], ask) == remembered(["q", 1], ask) == {"names": ["a", "b"]}
    assert remembered(["q", 2], ask) == "another"


@pytest.mark.usefixtures("empty_memo")
def test_an_error_is_no_answer() -> None:
    def fails() -> Any:
        raise MergingError("broken")

    with pytest.raises(MergingError):
        remembered("q", fails)
    assert remembered("q", answers(1)) == 1


@pytest.mark.parametrize("left", [b"", b'{"cut": ', b"\xff\xfe"])
def test_a_damaged_answer_is_asked_for_again(empty_memo: Path, left: bytes) -> None:
    assert remembered("q", answers(1)) == 1
    (file,) = empty_memo.iterdir()
    file.write_bytes(left)
    assert remembered("q", answers(2)) == 2
    assert remembered("q", answers()) == 2


@pytest.mark.usefixtures("empty_memo")
def test_another_version_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered("q", answers(1)) == 1
    edition = remembered_answers._edition()
    assert edition is not None
    monkeypatch.setattr(remembered_answers, "_edition", lambda: [*edition[:-1], "other code"])
    assert remembered("q", answers(2)) == 2


def test_what_changes_without_a_version_is_asked_each_time(empty_memo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_answers, "version", lambda name: "5.25.0.dev0" if name == "transformers" else "1.0")
    remembered_answers._edition.cache_clear()
    try:
        ask = answers(1, 2)
        assert [remembered("q", ask), remembered("q", ask)] == [1, 2]
        assert not list(empty_memo.iterdir())
    finally:
        remembered_answers._edition.cache_clear()


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("merging.checkpoints.remembered_answers.cache_folder", memo_folder)
    ask = answers(1, 2)
    assert [remembered("q", ask), remembered("q", ask)] == [1, 2]


def test_many_may_ask_at_once(empty_memo: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: remembered("q", lambda: "x" * 100_000), range(50))) == {"x" * 100_000}
    assert len(list(empty_memo.iterdir())) == 1


# --- what a merge asks ----------------------------------------------------------------------------------------------

EXPORT = """
import sys
from pathlib import Path
from merging import Recipe, export_model
for file in sys.argv[1:]:
    export_model(Recipe.load(file), Path(file).with_suffix(""))
print(*sorted({"tokenizers", "transformers", "huggingface_hub"} & sys.modules.keys()))
"""


def slow_imports_of_exports(recipes: Mapping[str, Recipe], folder: Path) -> str:
    """Export recipes in a process of its own, each under its name, and return the slow libraries that it imported."""
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-c", EXPORT, *(str(folder / f"{name}.yaml") for name in recipes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def assert_same_files(one: Path, other: Path) -> None:
    """Fail unless two exports of one name are the same, byte for byte."""
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


@pytest.mark.usefixtures("empty_memo")
@pytest.mark.slow
def test_a_second_merge_of_the_kind_needs_no_transformers_and_writes_the_same(family: Family, tmp_path: Path) -> None:
    first = {name: Recipe.parse(recipes(family, "bfloat16")[name]) for name in ("ties", "slices", "out_dtype")}
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    for name, recipe in first.items():
        export_model(recipe, tmp_path / "first" / name)
    others = {"numbers": first["ties"].model_copy(update={"parameters": {"weight": 0.3, "density": 0.2}})}
    assert slow_imports_of_exports(first | others, tmp_path / "again") == ""
    for name in first:
        assert_same_files(tmp_path / "first" / name, tmp_path / "again" / name)


@pytest.mark.usefixtures("empty_memo")
@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral"])
def test_what_is_remembered_of_other_layouts_writes_the_same(tmp_path: Path, architecture: str) -> None:
    family = make_family(tmp_path, architecture=architecture, layers=2)
    recipe = Recipe.average([family.base, family.a])
    for name in ("first", "second"):
        export_model(recipe, tmp_path / name / "merge")
    assert_same_files(tmp_path / "first" / "merge", tmp_path / "second" / "merge")


@pytest.mark.usefixtures("empty_memo")
def test_remembered_or_not_a_checkpoint_says_the_same(qwen_family: Family) -> None:
    first, second = (Checkpoint.open(qwen_family.a) for _ in range(2))
    config = AutoConfig.from_pretrained(qwen_family.a)
    for checkpoint in (first, second):
        assert checkpoint.config.tie_word_embeddings is True
        assert checkpoint.config.get_text_config().num_hidden_layers == config.num_hidden_layers == 3
        assert checkpoint.config.to_dict()["hidden_size"] == 32
        assert not hasattr(checkpoint.config, "no_such_key")
    assert first.architecture.plain() == second.architecture.plain()
    assert first.pieces(first.tensors) == second.pieces(second.tensors)
    assert first.architecture.layout.name_of("lm_head.weight") == second.architecture.layout.name_of("lm_head.weight")


# --- what is wrong is found all the same ----------------------------------------------------------------------------


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another width": (
        lambda folder: change(folder / "config.json", lambda config: config.update(intermediate_size=48)),
        "has shape .* but its config says",
    ),
    "another depth": (
        lambda folder: change(folder / "config.json", lambda config: config.update(num_hidden_layers=2)),
        "its files hold 3 layers, but its config says 2",
    ),
    "a lost tensor": (lose_a_tensor, r"has no tensor model\.layers\.1\.mlp\.up_proj\.weight"),
    "a config of no kind": (
        lambda folder: change(folder / "config.json", lambda config: config.update(model_type="none")),
        r"its config\.json cannot be used",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
    "a broken generation config": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        r"generation_config\.json: cannot be used",
    ),
    "a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "its tokenizer cannot be loaded",
    ),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "has no tokenizer",
    ),
    "ids without rows": (
        lambda folder: change(
            folder / "tokenizer.json",
            lambda content: content["added_tokens"].append(
                {"id": 5000, "content": "<x>", "special": True}
                | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            ),
        ),
        "its tokenizer has ids up to",
    ),
}


@pytest.mark.usefixtures("empty_memo")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_in_a_model_that_was_merged_before(family: Family, tmp_path: Path, mistake: str) -> None:
    model = Path(shutil.copytree(family.base, tmp_path / "model"))
    export_model(Recipe.single(str(model)), tmp_path / "before")
    make, words = MISTAKES[mistake]
    make(model)
    for _ in range(2):  # nor is a mistake remembered as none
        with pytest.raises(MergingError, match=words):
            export_model(Recipe.single(str(model)), tmp_path / "after")


@pytest.mark.usefixtures("empty_memo")
def test_special_tokens_that_changed_are_those_of_the_next_merge(family: Family, tmp_path: Path) -> None:
    model = Path(shutil.copytree(family.base, tmp_path / "model"))
    found = []
    for name, token in (("one", "</s>"), ("two", "<a>")):
        change(model / "tokenizer_config.json", lambda config, token=token: config.update(eos_token=token))  # type: ignore[misc]
        export_model(Recipe.single(str(model)), tmp_path / name)
        found.append([json.loads((tmp_path / name / file).read_text())["eos_token_id"] for file in CONFIGS])
    assert found == [[257, 257], [258, 258]]


CONFIGS = ("config.json", "generation_config.json")


def test_of_a_model_whose_code_is_trusted_nothing_is_remembered(
    family: Family, empty_memo: Path, tmp_path: Path
) -> None:
    export_model(Recipe.single(family.base), tmp_path / "merge", MergeOptions(load=LoadOptions(trust_remote_code=True)))
    assert not list(empty_memo.glob("*"))
    export_model(Recipe.single(family.base), tmp_path / "again")
    assert list(empty_memo.glob("*"))
