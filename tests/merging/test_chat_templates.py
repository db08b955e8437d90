"""The well-known chat templates write their formats as these are described in public, and have mergekit's names."""

from __future__ import annotations

import importlib.resources
import re
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from mergekit._data import chat_templates as theirs  # type: ignore[import-untyped]

from merging.tokenization.chat_templates import TEMPLATES
from tests.tiny import byte_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Write f.\n"},
    {"role": "assistant", "content": "def f(): ..."},
    {"role": "user", "content": "Now g."},
]
CONVERSATIONS = {
    "one question": TURNS[:1],
    "a system message": [SYSTEM, *TURNS[:1]],
    "an answer": TURNS[:2],
    "many turns": [SYSTEM, *TURNS],
}


def files() -> dict[str, str]:
    """Return the templates that mergekit ships."""
    folder = importlib.resources.files(theirs)
    return {
        file.name.removesuffix(".jinja"): file.read_text() for file in folder.iterdir() if file.name.endswith(".jinja")
    }


def written(template: str, messages: list[dict[str, str]], prompt: bool) -> str:
    """Return how a template writes a conversation."""
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = template
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def test_the_names_are_mergekits() -> None:
    assert set(TEMPLATES) == set(files())


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [False, True])
def test_a_template_writes_what_mergekits_writes_or_differs_in_newlines(
    name: str, conversation: str, prompt: bool
) -> None:
    ours, others = (written(text, CONVERSATIONS[conversation], prompt) for text in (TEMPLATES[name], files()[name]))
    if name not in ("chatml", "mistral"):
        ours, others = (re.sub(r"\s+", "", text) for text in (ours, others))
    assert ours == others


EXPECTED = {
    "alpaca": "Be brief.\n\n### Instruction:\nWrite f.\n\n### Response:\ndef f(): ...\n\n### Instruction:\nNow g.\n\n"
    "### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWrite f.\n<|im_end|>\n<|im_start|>assistant\n"
    "def f(): ...<|im_end|>\n<|im_start|>user\nNow g.<|im_end|>\n<|im_start|>assistant\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Write f.\n\n[|assistant|]def f(): ...[|endofturn|]\n"
    "[|user|]Now g.\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nWrite f.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\ndef f(): ...<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nNow g.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be brief.\n\nWrite f.\n [/INST] def f(): ...</s> [INST] Now g. [/INST]",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_its_format(name: str) -> None:
    assert written(TEMPLATES[name], CONVERSATIONS["many turns"], prompt=True) == EXPECTED[name]


def test_exaone_begins_with_an_empty_system_message_where_there_is_none() -> None:
    assert written(TEMPLATES["exaone"], TURNS[:1], prompt=False) == "[|system|][|endofturn|]\n[|user|]Write f.\n\n"


def test_alpaca_writes_an_input_of_its_own() -> None:
    messages = [{"role": "user", "content": "Sort."}, {"role": "user_context", "content": "3 1 2"}]
    assert written(TEMPLATES["alpaca"], messages, prompt=True) == (
        "### Instruction:\nSort.\n\n### Input:\n3 1 2\n\n### Response:\n"
    )


@pytest.mark.parametrize("messages", [[TURNS[1]], [TURNS[0], TURNS[0]], [TURNS[0], SYSTEM]])
def test_mistral_refuses_turns_out_of_order(messages: list[dict[str, str]]) -> None:
    with pytest.raises(TemplateError, match="take turns"):
        written(TEMPLATES["mistral"], messages, prompt=False)
