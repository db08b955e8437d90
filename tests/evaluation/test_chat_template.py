"""Chat templates as people publish them: where their prompts end, and what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import EvaluationError, Problem, prompt_notes
from evaluation.chat_template import TurnEnd, ask, turn_end
from evaluation.prompts import prompt_tokens, question, render, stops
from merging.tokenization import chat_templates
from merging.tokenization.chat_templates import TEMPLATES
from tests.tiny import TinyVocabulary, byte_tokenizer

MARKS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|EOT|>", "<|user|>", "<|assistant|>")
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# Shortened from what stands beside well-known models.
PUBLISHED = {
    **TEMPLATES,
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "phi": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "deepseek coder": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n"
    "{{ m.content }}\n"
    "{% else %}### Response:\n{{ m.content }}\n<|EOT|>\n{% endif %}{% endfor %}### Response:\n",
    "glm": "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "thinking": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + _OPEN,
    "thinking opened": _CHATML + _OPEN.replace("assistant\n", "assistant\n<think>\n"),
    "dialogue": "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
}
ENDS = {
    "alpaca": None, "chatml": "<|im_end|>", "exaone": "[|endofturn|]", "llama3": "<|eot_id|>", "mistral": "</s>",
    "gemma": "<end_of_turn>", "phi": "<|end|>", "deepseek coder": "<|EOT|>", "glm": "<|user|>", "zephyr": "</s>",
    "thinking": "<|im_end|>", "thinking opened": "<|im_end|>", "dialogue": "</s>",
}  # fmt: skip
# What is wrong with a template, and the end of the prompts that it should give.
BROKEN = {
    "opens no turn": (_CHATML, "<|im_end|>\n<|im_start|>assistant\n"),
    "ends the prompt": (_CHATML + _OPEN + "{{ eos_token }}", "<|im_end|>\n<|im_start|>assistant\n"),
    "ends the question's text": (
        "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}{{ eos_token }}",
        "\nASSISTANT:",
    ),
    "vicuna": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}"
        "ASSISTANT: {{ m.content + eos_token }}{% endif %}{% endfor %}",
        " ASSISTANT:",
    ),
}
REWRITING = {
    "strips lines": "{% for line in m.content.split('\n') %}{{ line | trim }}\n{% endfor %}",
    "joins lines": "{{ m.content | replace('\n', ' ') }}",
    "escapes": "{{ m.content | e }}",
    "quotes": "{{ m.content | tojson }}",
    "cuts": "{{ m.content[:40] }}",
}


def tokenizer_with(template: str, marks: Sequence[str] = (*MARKS, "[|endofturn|]"), **roles: str) -> Any:
    tokenizer: Any = byte_tokenizer(TinyVocabulary(added=tuple(marks), **roles))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_answer_ends_as_the_template_writes_it(name: str) -> None:
    tokenizer, end = tokenizer_with(PUBLISHED[name]), ENDS[name]
    assert turn_end(tokenizer) == (TurnEnd(end, tokenizer.convert_tokens_to_ids(end)) if end else None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_exported_ends_where_what_is_scored_does(name: str) -> None:
    tokenizer = tokenizer_with(PUBLISHED[name])
    end = turn_end(tokenizer)
    assert chat_templates.turn_end(tokenizer) == (end and end.token)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_template_that_works_is_left_alone(name: str, adder: Problem) -> None:
    tokenizer = tokenizer_with(PUBLISHED[name])
    text = render(adder, "chat", tokenizer)
    messages = [{"role": "user", "content": question(adder)}]
    assert text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    notes = prompt_notes([adder], "chat", tokenizer)
    assert not any("assistant's turn" in note or "rewrites" in note for note in notes)


@pytest.mark.parametrize("name", BROKEN)
def test_a_prompt_ends_where_the_template_begins_an_answer(name: str, adder: Problem) -> None:
    template, end = BROKEN[name]
    tokenizer = tokenizer_with(template)
    text = render(adder, "chat", tokenizer)
    assert text.rpartition("```")[2] == end
    assert next(prompt_tokens([adder], "chat", tokenizer))[1][-1] != tokenizer.eos_token_id
    assert any("does not open the assistant's turn" in note for note in prompt_notes([adder], "chat", tokenizer))


@pytest.mark.parametrize("name", REWRITING)
def test_the_question_stands_as_it_was_asked(name: str, adder: Problem) -> None:
    body = f"<|im_start|>{{{{ m.role }}}}\n{REWRITING[name]}<|im_end|>\n"
    tokenizer = tokenizer_with(f"{{% for m in messages %}}{body}{{% endfor %}}{_OPEN}")
    problem = replace(adder, prompt="def add(a, b):\n    if a < b:\n        '''\"&'''\n")
    text = render(problem, "chat", tokenizer)
    assert f"```python\n{problem.prompt.strip()}\n```" in text
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    (note,) = [note for note in prompt_notes([problem], "chat", tokenizer) if "rewrites" in note]
    assert note.endswith("in 1 of 1 prompts (first toy/add); prompts keep it as is")


@pytest.mark.parametrize("template", ["{{ bos_token }}Hello!", "{% for m in messages %}{{ m.text }}{% endfor %}"])
def test_a_template_that_leaves_the_question_out_is_refused(template: str, adder: Problem) -> None:
    with pytest.raises(EvaluationError, match="the chat template drops the user's message; use format 'completion'"):
        render(adder, "chat", tokenizer_with(template))


@pytest.mark.parametrize("template", ["{{ raise_exception('no users') }}", "{{ messages[0].content + 1 }}", "{% if"])
def test_a_template_that_fails_is_named(template: str, adder: Problem) -> None:
    with pytest.raises(EvaluationError, match=r"^prompt format 'chat': the chat template fails: .*; use format"):
        render(adder, "chat", tokenizer_with(template))


def test_a_prompt_is_the_same_on_every_day_or_that_is_told(adder: Problem) -> None:
    says = "the chat template writes today's date: models that are scored on another day get different prompts"
    today = "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    tokenizer = tokenizer_with(today + "{{ date_string + '\n' + messages[0].content }}")
    assert render(adder, "chat", tokenizer).startswith("26 Jul 2024\nComplete")
    assert says not in prompt_notes([adder], "chat", tokenizer)
    tokenizer = tokenizer_with("{{ strftime_now('%d %b %Y') + '\n' + messages[0].content }}")
    assert says in prompt_notes([adder], "chat", tokenizer)


def test_an_end_without_a_token_ends_an_answer_as_text(adder: Problem) -> None:
    tokenizer = tokenizer_with(TEMPLATES["chatml"], marks=())
    assert turn_end(tokenizer) == TurnEnd("<|im_end|>", None)
    assert stops(adder, "chat", turn_end(tokenizer)) == ("<|im_end|>",)
    assert stops(adder, "chat", turn_end(tokenizer_with(TEMPLATES["chatml"]))) == ()
    assert any("is not a token of the tokenizer" in note for note in prompt_notes([adder], "chat", tokenizer))


@pytest.mark.parametrize("after", [".", "\n---\n", " -- end", "# done", "```"])
def test_ordinary_text_ends_no_answer(after: str) -> None:
    assert turn_end(tokenizer_with(f"{{% for m in messages %}}{{{{ m.content }}}}{after}{{% endfor %}}")) is None


@given(asked=st.text(min_size=1).filter(str.strip), name=st.sampled_from(sorted({*PUBLISHED, *BROKEN})))
def test_any_question_stands_in_its_prompt(asked: str, name: str) -> None:
    template = PUBLISHED.get(name) or BROKEN[name][0]
    assert asked.strip() in ask(asked.strip(), tokenizer_with(template))
