"""Greedy decoding writes what transformers' own `generate` writes, whatever the batch."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from evaluation.generation.protocol import Request
from evaluation.generation.text import text_after
from evaluation.generation.transformers_backend import TransformersGenerator
from merging import load_model, load_tokenizer
from tests.conftest import ModelMaker

PROMPTS = ["def f(x):", "a", "import os\nimport sys\n\n\ndef main() -> None:\n    ", "x = [1, 2", "# " + "long " * 20]


def by_generate(model: Any, ids: list[int], max_new_tokens: int, **options: Any) -> list[int]:
    """Return the tokens that `model.generate` writes after one prompt alone."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        **options,
    )
    return list(out[0, len(ids) :].tolist())


def written(model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int, **options: Any) -> dict[int, Any]:
    """Return what our generator writes, by prompt."""
    drafts = options.pop("drafts", [()] * len(prompts))
    options = {"max_new_tokens": 40} | options
    requests = [Request(prompt, drafts=known, **options) for prompt, known in zip(prompts, drafts, strict=True)]
    return dict(TransformersGenerator(model, tokenizer, batch_size).generate(requests))


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_in_float32_the_tokens_are_those_of_generate(
    make_model: ModelMaker, architecture: str, batch_size: int
) -> None:
    folder = make_model("model", dtype="float32", architecture=architecture, tied=True, hidden=64)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    # A token that the model likes to write ends the text, so that rows end at different steps.
    alone = [by_generate(model, ids, 40) for ids in prompts]
    end = random.Random(0).choice([token for tokens in alone for token in tokens[5:]])
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [end, 257]
    expected = [by_generate(model, ids, 40) for ids in prompts]
    assert len({len(tokens) for tokens in expected}) > 1
    found = written(model, tokenizer, prompts, batch_size)
    for index, tokens in enumerate(expected):
        assert list(found[index].tokens) == tokens
        assert found[index].text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_writing_ends_at_a_stop_text(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    whole = written(model, tokenizer, prompts, 5)
    stop = whole[0].text[7:9]
    stopped = written(model, tokenizer, prompts, 5, stops=[stop])
    for index, generated in whole.items():
        end = generated.text.find(stop)
        if end >= 0:
            assert stopped[index].text == generated.text[: end + len(stop)]
            assert len(stopped[index].tokens) < len(generated.tokens)
        else:
            assert stopped[index] == generated
    assert len(stopped[0].tokens) < 40


def test_a_text_ends_where_the_context_does(make_model: ModelMaker) -> None:
    folder = make_model("model", dtype="float32")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    model.config.max_position_embeddings = 30
    prompts = [[5] * 20, [7] * 28, [9] * 40]
    found = written(model, tokenizer, prompts, 3)
    assert [len(found[index].tokens) for index in range(3)] == [10, 2, 1]


def test_half_a_batch_is_tried_where_a_whole_one_has_no_room(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = written(model, tokenizer, prompts, 5)

    def limited(_: Any, __: Any, keywords: dict[str, Any]) -> None:
        if len(keywords["input_ids"]) > 2:
            raise torch.OutOfMemoryError

    with model.register_forward_pre_hook(limited, with_kwargs=True):
        assert written(model, tokenizer, prompts, 5) == expected


def test_no_room_for_a_single_prompt_is_an_error(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model

    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with model.register_forward_pre_hook(never), pytest.raises(torch.OutOfMemoryError):
        written(model, tokenizer, [[5, 6]], 4)


def test_code_is_not_cleaned_up(make_model: ModelMaker) -> None:
    folder = make_model("model", dtype="float32")
    tokenizer = load_tokenizer(folder)
    tokenizer.clean_up_tokenization_spaces = True
    text = "x = ( y , z ) ; a .b\n    not n't ?"
    ids = tokenizer.encode(text)
    assert text_after([5, 6], ids, tokenizer) == text
