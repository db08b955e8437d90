"""Prompts: what is unusual about them is said before anything is scored, and exports keep their ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import GenerationConfig

from evaluation import load_problems, prompt_notes
from evaluation.generation.text import end_tokens
from merging import Merger, ParentSet, Recipe, load_model, load_tokenizer
from search import SearchConfig, SearchError, export_trial, prompt_checks, run_search
from search.board.names import LABEL_WIDTH, parent_names
from search.run.setup import reference_models
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.told import Phases, Stopped, Stops

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<a>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = ", prompt: {format: chat}"


def edit(model: Path, **settings: object) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def chatting(*models: Path, template: str = TEMPLATE) -> None:
    for model in models:
        edit(model, sep_token="<a>")
        (model / "chat_template.jinja").write_text(template)


def append_end(model: Path) -> None:
    file = Tokenizer.from_file(str(model / "tokenizer.json"))
    file.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 257)])
    file.save(str(model / "tokenizer.json"))


def lengthen(model: Path) -> None:
    """Add a token only to a tokenizer."""
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    file = Tokenizer.from_file(str(model / "tokenizer.json"))
    file.add_tokens([f"<{number}>" for number in range(rows - file.get_vocab_size())])
    file.add_tokens(["alpha"])
    file.save(str(model / "tokenizer.json"))


def said(config: Path, out: Path, trials: int) -> list[str]:
    """Return what a search says."""
    progress = Phases()
    run_search(SearchConfig.load(config), out, trials=trials, progress=progress)
    return progress.said


def said_first(config: SearchConfig, out: Path) -> list[str]:
    """Return what a search says before anything is scored."""
    progress = Stops()
    with pytest.raises(Stopped):
        run_search(config, out, progress=progress)
    return progress.said


@pytest.mark.slow
def test_what_tokenizers_append_changes_no_score(family: Family, stopped_folder: Path, tmp_path: Path) -> None:
    for model in (family.base, family.a, family.b):
        append_end(model)
    notes = [note for note in said(family.write(), tmp_path / "run", trials=1) if "prompts" in note]
    assert notes == [
        "completion prompts end without </s>, which the tokenizer appends: a model generates nothing after it"
    ]
    for file in sorted((stopped_folder / "completions").iterdir()):
        assert (tmp_path / "run" / "completions" / file.name).read_text() == file.read_text()


def test_prompts_whose_tokens_the_models_lack_are_refused_before_anything_is_written(
    family: Family, tmp_path: Path
) -> None:
    lengthen(Path(shutil.copytree(family.base, family.folder / "other")))
    config = family.write(evaluation=", prompt: {tokenizer: other}")
    with pytest.raises(SearchError, match=r"evaluation.prompt: one/alpha: its prompt has the token \d+ \('alpha'\)"):
        run_search(SearchConfig.load(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_parent_with_other_prompts_is_named(family: Family, tmp_path: Path) -> None:
    file = Tokenizer.from_file(str(family.b / "tokenizer.json"))
    file.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    file.save(str(family.b / "tokenizer.json"))
    (note,) = [note for note in said_first(SearchConfig.load(family.write()), tmp_path / "run") if "tokens" in note]
    assert note == (
        "b: the prompts have other tokens than for the merges; set evaluation.prompt.tokenizer to use one tokenizer "
        "for all"
    )


def test_all_models_of_a_note_have_their_short_names(family: Family) -> None:
    file = Tokenizer.from_file(str(family.b / "tokenizer.json"))
    file.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    file.save(str(family.b / "tokenizer.json"))
    recipes = {str(model): Recipe.single(str(model)) for model in (family.a, family.b)}
    config = SearchConfig.load(family.write())
    with ParentSet.open(list(recipes.values())) as parents:
        (note,) = prompt_checks.notes_on_prompts(config, load_problems(family.problems), Merger(parents), recipes)
    assert note.startswith("b: the prompts have other tokens than for a; set evaluation.prompt.tokenizer")


@pytest.mark.parametrize(
    "folder", ["c+d/model", pytest.param("c/a-name-that-is-longer-than-a-label-may-be", marks=pytest.mark.slow)]
)
def test_notes_call_a_parent_as_every_other_screen_does(family: Family, tmp_path: Path, folder: str) -> None:
    append_end(family.b)
    (family.folder / folder).parent.mkdir()
    family.b.rename(family.folder / folder)
    text = family.config().replace("model: b\n", f"model: {folder}\n")
    config = SearchConfig.parse(text, folder=family.folder)
    (note,) = [note for note in said_first(config, tmp_path / "run") if "</s>" in note]
    parents = [record.recipe for record in reference_models(config) if record.kind == "parent"]
    called = parent_names(parents, LABEL_WIDTH)[str(family.folder / folder)]
    assert note.startswith(f"{called}: completion prompts end without </s>")


def test_the_tokenizer_that_asks_all_models_is_looked_at_once(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []

    def look(*given: Any) -> Sequence[str]:
        looked.append(given[2])
        return prompt_notes(*given)

    monkeypatch.setattr(prompt_checks, "prompt_notes", look)
    append_end(family.b)
    config = SearchConfig.load(family.write(evaluation=", prompt: {tokenizer: b}"))
    notes = said_first(config, tmp_path / "run")
    assert len(looked) == 1
    assert (
        "completion prompts end without </s>, which the tokenizer appends: a model generates nothing after it" in notes
    )


def test_ordinary_models_need_no_word(family: Family, tmp_path: Path) -> None:
    assert not [note for note in said_first(SearchConfig.load(family.write()), tmp_path / "run") if "prompt" in note]


@pytest.mark.slow
def test_a_chat_export_ends_where_its_answers_did(family: Family, tmp_path: Path) -> None:
    chatting(family.base, family.a, family.b)
    notes = said(family.write(evaluation=CHAT), tmp_path / "run", trials=1)
    assert [note for note in notes if "<a>" in note] == [
        "the chat template ends an answer with <a>, which generation_config.json does not list (eos_token_id); an "
        "answer still ends there"
    ]
    export_trial(tmp_path / "run", tmp_path / "out", anyway=True)
    merge = Recipe.load(tmp_path / "out" / "recipe.yaml")
    with ParentSet.open(merge) as parents:
        merger = Merger(parents)
        scored = end_tokens(merger.apply(merge), merger.tokenizer(merge))
    exported = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert set(exported) == scored == {257, 258}
    written = load_model(str(tmp_path / "out"))
    assert end_tokens(written, load_tokenizer(str(tmp_path / "out"))) == scored


@pytest.mark.slow
def test_an_export_ends_as_the_tokenizer_of_the_prompts_ends(family: Family, tmp_path: Path) -> None:
    chatting(family.b)
    said(family.write(evaluation=", prompt: {format: chat, tokenizer: b}"), tmp_path / "run", trials=1)
    export_trial(tmp_path / "run", tmp_path / "out", anyway=True)
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [257, 258]


def test_a_template_that_leaves_the_question_out_ends_a_search_before_it_begins(family: Family, tmp_path: Path) -> None:
    chatting(family.base, family.a, family.b, template="Hello!")
    with pytest.raises(SearchError, match="the chat template drops the user's message"):
        run_search(SearchConfig.load(family.write(evaluation=CHAT)), tmp_path / "run", trials=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluate_says_what_is_unusual_about_the_prompts(command: Command, family: Family) -> None:
    append_end(family.a)
    options = ["--problems", family.problems, "--max-new-tokens", "2", "--allow-code-execution"]
    shown = command("evaluate", family.a, *options)
    assert "completion prompts end without </s>" in shown.stderr
    assert "completion prompts" not in shown.stdout
    chatting(family.b)
    assert "ends an answer with <a>" in command("evaluate", family.b, *options, "--prompt", "chat").stderr


def test_the_average_of_the_parents_has_the_recipes_template(family: Family) -> None:
    text = family.config().replace("base_model: base", "base_model: base\n  chat_template: chatml")
    *_, average = reference_models(SearchConfig.parse(text, folder=family.folder))
    assert (average.kind, average.recipe["chat_template"]) == ("average", "chatml")
