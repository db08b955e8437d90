"""What a tokenizer puts around a prompt: completions go on after it, whatever its files add at either end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from evaluation import Evaluator, Problem, ProblemSet, prompt_notes
from evaluation.prompts import prompt_tokens
from merging import load_tokenizer
from tests.tiny import TinyVocabulary, byte_tokenizer

BOS, EOS, SEP, PAD = "<s>", "</s>", "<a>", "<b>"


def saved(folder: Path, template: str = "$A", edit: Callable[[Any], None] | None = None, **settings: object) -> Any:
    """Return a byte tokenizer as it is loaded from a folder, whose file puts special tokens around a text."""
    tokenizer = byte_tokenizer(TinyVocabulary(added=("<|stop|>",)))
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS, SEP, PAD, "<|stop|>")]
    tokenizer.save_pretrained(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    if edit:
        edit(file)
    file.save(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return load_tokenizer(str(folder))


def ids(tokenizer: Any, *texts: str) -> Sequence[int]:
    return [index for text in texts for index in tokenizer.encode(text, add_special_tokens=False)]


APPENDED = {
    "the end of a text": ("$A </s>", {}),
    "a separator": ("<s> $A <a>", {"sep_token": SEP}),
    "the end twice": ("$A </s> </s>", {}),
    "padding": ("$A <b>", {"pad_token": PAD}),
    "a special token without a role": ("$A <|stop|>", {}),
}


@pytest.mark.parametrize("kind", APPENDED)
def test_a_completion_prompt_ends_with_the_prompt(tmp_path: Path, adder: Problem, kind: str) -> None:
    template, settings = APPENDED[kind]
    tokenizer = saved(tmp_path, template, **settings)
    before = [BOS] if template.startswith(BOS) else []
    assert next(prompt_tokens([adder], "completion", tokenizer))[1] == ids(tokenizer, *before, adder.prompt.strip())
    (note,) = prompt_notes([adder], "completion", tokenizer)
    assert note.startswith("completion prompts end without <")


def test_what_the_prompt_itself_ends_with_stays(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, "$A </s>")
    problem = Problem("t", f'def f():\n    return "{EOS}', "f", "", "def check(c): pass")
    tokens = next(prompt_tokens([problem], "completion", tokenizer))[1]
    assert tokens[-1] == tokenizer.eos_token_id
    assert any("reads '</s>' as a special token" in note for note in prompt_notes([problem], "completion", tokenizer))


def test_a_tokenizer_is_asked_once_which_tokens_are_special(
    tmp_path: Path, adder: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = saved(tmp_path, "$A </s>"), []
    kind = type(tokenizer)
    known = kind.added_tokens_decoder.fget
    monkeypatch.setattr(kind, "added_tokens_decoder", property(lambda own: asked.append(own) or known(own)))
    assert len(list(prompt_tokens([adder] * 3, "completion", tokenizer))) == 3
    assert len(asked) == 1


@pytest.mark.parametrize("template", ["<s> <s> $A", "<s> <s> <s> $A"])
def test_a_prompt_begins_with_one_bos(tmp_path: Path, adder: Problem, template: str) -> None:
    tokenizer = saved(tmp_path, template)
    assert next(prompt_tokens([adder], "completion", tokenizer))[1] == ids(tokenizer, BOS, adder.prompt.strip())
    assert any(note.startswith("completion prompts begin with one <s>") for note in notes(adder, tokenizer))


def notes(problem: Problem, tokenizer: Any, prompt: Any = "completion") -> Sequence[str]:
    return prompt_notes([problem], prompt, tokenizer)


@pytest.mark.parametrize(
    "template",
    ["<s>{{ bos_token + messages[0].content }}", "{{ bos_token + bos_token + messages[0].content }}"],
)
def test_a_chat_prompt_begins_with_one_bos(tmp_path: Path, adder: Problem, template: str) -> None:
    tokenizer = saved(tmp_path, "<s> $A")
    tokenizer.chat_template = template
    tokens = next(prompt_tokens([adder], "chat", tokenizer))[1]
    assert tokens.count(tokenizer.bos_token_id) == 1
    assert "chat prompts begin with one <s>, where the tokenizer would put 2" in notes(adder, tokenizer, "chat")


def test_ordinary_prompts_need_no_word(tmp_path: Path, adder: Problem) -> None:
    assert notes(adder, saved(tmp_path / "plain")) == []
    assert notes(adder, saved(tmp_path / "bos", "<s> $A", add_bos_token=True)) == []


def test_who_disagrees_about_bos_is_named(tmp_path: Path, adder: Problem) -> None:
    tokenizer = saved(tmp_path / "config", add_bos_token=True)
    assert notes(adder, tokenizer) == [
        "completion prompts begin without <s>, unlike tokenizer_config.json (add_bos_token: true)"
    ]
    tokenizer = saved(tmp_path / "class", tokenizer_class="CodeLlamaTokenizer")
    assert notes(adder, tokenizer) == ["completion prompts begin with <s>, unlike tokenizer.json"]
    tokenizer = saved(tmp_path / "chat")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    assert notes(adder, tokenizer) == ["completion prompts begin without <s>, unlike the chat template"]
    tokenizer = saved(tmp_path / "template", "<s> $A")
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert notes(adder, tokenizer, "chat") == [
        "chat prompts begin without <s>, unlike the tokenizer's encoding of plain text"
    ]


def test_ids_that_the_file_would_give_otherwise_are_told(tmp_path: Path, adder: Problem) -> None:
    tokenizer = saved(tmp_path)
    tokenizer.backend_tokenizer.pre_tokenizer = None  # as a class may split a text differently than the file
    assert [note.partition(" for ")[0] for note in notes(adder, tokenizer)] == [
        f"tokenizer.json and {type(tokenizer).__name__} give different ids"
    ]


def test_truncation_and_padding_left_in_the_file_change_no_prompt(tmp_path: Path, adder: Problem) -> None:
    def edit(file: Any) -> None:
        file.enable_truncation(max_length=4)
        file.enable_padding(length=500)

    tokenizer = saved(tmp_path, edit=edit)
    assert next(prompt_tokens([adder], "completion", tokenizer))[1] == ids(tokenizer, adder.prompt.strip())
    assert notes(adder, tokenizer) == []


def test_a_model_writes_the_same_whatever_is_appended(tmp_path: Path, tiny_model: Any, adder: Problem) -> None:
    model, plain = tiny_model
    with Evaluator(ProblemSet("toy", (adder,)), allow_code_execution=True, max_new_tokens=8, workers=1) as evaluator:
        expected = evaluator.evaluate(model, plain)
        found = evaluator.evaluate(model, saved(tmp_path, "$A </s>"))
    assert found.outcomes == expected.outcomes
