"""Greedy decoding writes what transformers' own `generate` writes, whatever the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, PreTrainedTokenizerFast

from evaluation import load_problems
from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine import generator as generator_module
from evaluation.generation.engine.attention import UnsupportedAttentionError
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.stock_generator import StockGenerator
from evaluation.generation.text import TAIL_TOKENS, ends_in_stop, text_after
from evaluation.generation.transformers_backend import TransformersBackend
from merging import load_model, load_tokenizer
from tests.conftest import ModelMaker
from tests.parametrization import every
from tests.tiny import byte_tokenizer

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart" / "base"
PROMPTS = ["def f(x):", "a", "import os\nimport sys\n\n\ndef main() -> None:\n    ", "x = [1, 2", "# " + "long " * 20]


def by_generate(model: Any, ids: list[int], max_new_tokens: int, **options: Any) -> list[int]:
    """Return the tokens that `model.generate` writes after a single prompt."""
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


@pytest.mark.parametrize(("architecture", "batch_size"), every(2, [("llama", 1), ("qwen2", 2), ("qwen2", 5)]))
def test_in_float32_the_tokens_are_those_of_generate(
    make_model: ModelMaker, architecture: str, batch_size: int
) -> None:
    folder = make_model("model", dtype="float32", architecture=architecture, hidden=64, layers=2)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    # A token that the model likes to write ends the text, so that rows end at different steps.
    alone = [by_generate(model, ids, 24) for ids in prompts]
    end = random.Random(0).choice([token for tokens in alone for token in tokens[5:]])
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [end, 257]
    expected = [by_generate(model, ids, 24) for ids in prompts]
    assert len({len(tokens) for tokens in expected}) > 1
    found = written(model, tokenizer, prompts, batch_size, max_new_tokens=24)
    for index, tokens in enumerate(expected):
        assert list(found[index].tokens) == tokens
        assert found[index].text == tokenizer.decode(tokens, skip_special_tokens=True)


def blank_tokenizer() -> Any:
    """Return a tokenizer that writes a blank as a mark and what it has no token for as bytes, as Llama's does."""
    words = ["▁", "▁#", "#", "def", "▁def", "d", "ef", "class", "▁x", "x", "```", "`", "``"]
    vocabulary = {
        word: index for index, word in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])
    }
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("stops", [("\ndef", "\n#", "\n```", "x class"), ("#",), ("é#", "\ndef"), ()])
@pytest.mark.parametrize("kind", ["bytes", "pieces", "blanks"])
def test_a_stop_text_is_noticed_at_the_token_that_completes_it(kind: str, stops: tuple[str, ...]) -> None:
    tokenizer: Any
    if kind == "blanks":
        tokenizer = blank_tokenizer()
    else:
        tokenizer = byte_tokenizer() if kind == "bytes" else load_tokenizer(str(QUICKSTART))
    chance = random.Random(0)
    parts = ["\n", "def", "d", "ef", " ", "#", "x", " class", "class", "`", "``", "é", "ß"]
    for _ in range(70):
        texts = ["".join(chance.choices(parts, k=3)) for _ in range(8)]
        tokens = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
        if kind != "blanks":  # which reads a line's end as no character, next to half of one
            tokens.insert(chance.randrange(len(tokens)), chance.randrange(len(tokenizer)))
        tails = [tokenizer.decode(tokens[max(0, end - TAIL_TOKENS) : end]) for end in range(1, len(tokens) + 1)]
        whole = [any(stop in tail for stop in stops) for tail in tails]
        found = [ends_in_stop(stops, tokens[:end], tokenizer) for end in range(1, len(tokens) + 1)]
        assert [*found, True].index(True) == [*whole, True].index(True)


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


def test_a_window_hides_what_is_older(make_model: ModelMaker) -> None:
    folder = make_model("model", dtype="float32", architecture="mistral", hidden=64, layers=2)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    unlimited = [by_generate(model, ids, 24) for ids in prompts]
    model.config.sliding_window = 8
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 8
    expected = [by_generate(model, ids, 24) for ids in prompts]
    assert expected != unlimited
    found = written(model, tokenizer, prompts, 5, max_new_tokens=24)
    assert [list(each.tokens) for _, each in sorted(found.items())] == expected


@pytest.mark.parametrize(("architecture", "batch_size"), [("llama", 1), ("gpt_neox", 3), ("gemma", 5)])
def test_drafts_change_no_token(make_model: ModelMaker, architecture: str, batch_size: int) -> None:
    folder = make_model("model", dtype="float32", architecture=architecture, hidden=64, layers=2)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = [by_generate(model, ids, 24) for ids in prompts]
    draw = random.Random(batch_size)
    # Right up to some token, wrong from there on, then right again; or of another prompt; or of nothing at all.
    bent = [[*tokens[:at], 7, *tokens[at + 1 :]] for tokens in expected for at in [draw.randrange(len(tokens))]]
    drafts = [[bent[row], expected[row - 1], [], expected[row][:9]] for row in range(len(prompts))]
    with counted(model) as with_drafts:
        found = written(model, tokenizer, prompts, batch_size, drafts=drafts, max_new_tokens=24)
    assert [list(found[index].tokens) for index in range(len(prompts))] == expected
    with counted(model) as without:
        written(model, tokenizer, prompts, batch_size, max_new_tokens=24)
    assert len(with_drafts) < len(without)


def test_what_was_written_before_is_verified_in_a_pass(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    before = written(model, tokenizer, prompts, 5)
    with counted(model) as passes:
        again = written(model, tokenizer, prompts, 5, drafts=[[before[row].tokens] for row in range(5)])
    assert again == before
    assert len(passes) < 8
    assert sum(each.accepted for each in again.values()) > 0.9 * sum(each.guessed for each in again.values()) > 0


def test_each_token_is_a_guess_that_was_accepted_or_a_pass(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    prompt = tokenizer.encode(PROMPTS[0])
    expected = by_generate(model, prompt, 24)
    draft = [*expected[:10], 7, *expected[11:]]
    with counted(model) as passes:
        found = written(model, tokenizer, [prompt], 1, drafts=[[draft]], max_new_tokens=24)[0]
    assert 10 <= found.accepted < found.guessed
    assert len(found.tokens) == len(passes) + found.accepted


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Give the number of tokens of each forward pass meanwhile, that of the generator's probe included."""
    passes: list[int] = []

    def count(_: Any, __: Any, keywords: dict[str, Any]) -> None:
        passes.append(keywords["input_ids"].numel())

    with model.register_forward_pre_hook(count, with_kwargs=True):
        yield passes


@pytest.mark.parametrize("drafting", [True, False])
def test_the_likelihood_of_a_reference_is_that_of_a_plain_forward(
    tiny_model: tuple[Any, Any], drafting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_module, "SCORED_TOKENS", 7)  # so that it is computed in parts
    model, tokenizer = tiny_model
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    plain = written(model, tokenizer, prompts, 5)
    references = [list(plain[0].tokens), [5, 6, 7], [], [8], [*plain[4].tokens[:9], 3, 3]]
    requests = [
        Request(prompt, max_new_tokens=40, reference=reference)
        for prompt, reference in zip(prompts, references, strict=True)
    ]
    found = dict(TransformersGenerator(model, tokenizer, 3, drafting=drafting).generate(requests))
    for row, (prompt, reference) in enumerate(zip(prompts, references, strict=True)):
        assert found[row].tokens == plain[row].tokens
        if not reference:
            assert found[row].log_likelihood is None
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *reference]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(reference)), reference].mean()
        assert found[row].log_likelihood == pytest.approx(float(expected), abs=1e-5)


def test_half_the_rows_are_tried_where_all_have_no_room(
    tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = tiny_model
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = written(model, tokenizer, prompts, 5)
    forward, passes = TransformersGenerator._forward, [0]

    def limited(self: Any, pieces: Any, slots: Any) -> Any:
        passes[0] += 1
        longest = max(map(len, prompts)) + 40
        if slots.rows * slots.length > 2 * longest and passes[0] > 20:  # some rows have written by then
            raise torch.OutOfMemoryError
        return forward(self, pieces, slots)

    monkeypatch.setattr(TransformersGenerator, "_forward", limited)
    assert written(model, tokenizer, prompts, 5) == expected
    assert caplog.messages == ["out of memory: continuing with 2 prompts at a time"]


def test_no_room_for_a_single_prompt_is_an_error(tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model
    generator = TransformersGenerator(model, tokenizer, 4)

    def never(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(generator, "_forward", never)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(generator.generate([Request([5, 6]), Request([5])]))


def test_a_model_has_its_own_attention_back(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    before = model.config._attn_implementation
    unfinished = TransformersGenerator(model, tokenizer).generate([Request([5], max_new_tokens=n) for n in (1, 9)])
    assert next(unfinished)[0] == 0
    assert model.config._attn_implementation != before
    unfinished.close()  # type: ignore[attr-defined]
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("batch_size", every(2, [5, 1]))
def test_a_model_with_layers_of_another_kind_is_run_by_generate(
    make_model: ModelMaker, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model("model", dtype="float32", hidden=64)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    model.config.layer_types = ["full_attention", "full_attention", "linear_attention"]
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    requests = [Request(prompt, max_new_tokens=20) for prompt in prompts]
    generated = TransformersBackend(batch_size).generate(model, tokenizer, requests)
    assert "LlamaForCausalLM: generating with transformers' own attention" in caplog.text
    model.config.layer_types = None
    found = dict(generated)
    assert [list(found[row].tokens) for row in range(5)] == [by_generate(model, ids, 20) for ids in prompts]


@pytest.mark.parametrize(("batch_size", "room"), [(2, 5), (5, 5), (5, 2)])
def test_generate_goes_on_with_the_rows_that_are_left(
    tiny_model: tuple[Any, Any],
    batch_size: int,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, tokenizer = tiny_model
    monkeypatch.setattr("evaluation.generation.stock_generator._FIRST_TOKENS", 4)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    lengths = [3, 4, 11, 12, 30]
    requests = [Request(ids, max_new_tokens=most) for ids, most in zip(prompts, lengths, strict=True)]
    generate, rows = model.generate, []

    def limited(ids: Any, **options: Any) -> Any:
        rows.append(len(ids))
        if len(ids) > room:
            raise torch.OutOfMemoryError
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", limited)
    before = model.generation_config
    found = dict(StockGenerator(model, tokenizer, batch_size).generate(requests))
    monkeypatch.undo()
    assert [list(found[row].tokens) for row in range(5)] == [
        by_generate(model, ids, most) for ids, most in zip(prompts, lengths, strict=True)
    ]
    assert model.generation_config is before
    assert rows[-1] == 1  # only the longest one
    assert ("continuing with 2 prompts at a time" in caplog.text) == (batch_size > room)


def test_attention_with_capped_scores_is_refused(make_model: ModelMaker, caplog: pytest.LogCaptureFixture) -> None:
    config = Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(make_model("model"))
    with pytest.raises(UnsupportedAttentionError, match="softcap"):
        TransformersGenerator(model.eval(), tokenizer)
    with caplog.at_level("WARNING"):
        TransformersBackend().generate(model, tokenizer, [])
    assert "generating with transformers' own attention" in caplog.text


def test_a_model_whose_class_has_its_own_attention_is_refused_for_that(make_model: ModelMaker) -> None:
    config = BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedAttentionError, match="attention that its class does not let others replace"):
        TransformersGenerator(model.eval(), load_tokenizer(make_model("model")))


@pytest.mark.parametrize("head", [None, torch.nn.Linear(32, 262)])
def test_a_model_with_an_unknown_head_is_refused(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch, head: torch.nn.Module | None
) -> None:
    folder = make_model("model", dtype="float32")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda _: head)
    with pytest.raises(UnsupportedAttentionError, match="head"):
        TransformersGenerator(model, tokenizer)


@pytest.mark.slow
def test_on_a_real_model_the_tokens_are_those_of_generate_with_and_without_drafts(smollm2_folder: Path) -> None:
    folder = str(smollm2_folder / "base")
    model, tokenizer = load_model(folder).float(), load_tokenizer(folder)
    texts = sorted((problem.prompt.strip() for problem in load_problems("humaneval").problems), key=len)[:40:10]
    prompts = [tokenizer.encode(text) for text in texts]
    assert len({len(ids) for ids in prompts}) == 4
    expected = [by_generate(model, ids, 24) for ids in prompts]
    found = written(model, tokenizer, prompts, 4, max_new_tokens=24)
    assert [list(found[row].tokens) for row in range(4)] == expected
    drafts = [[[*tokens[:12], 7, *tokens[13:]]] for tokens in expected]
    found = written(model, tokenizer, prompts, 3, max_new_tokens=24, drafts=drafts)
    assert [list(found[row].tokens) for row in range(4)] == expected


def test_code_is_not_cleaned_up(make_model: ModelMaker) -> None:
    folder = make_model("model", dtype="float32")
    tokenizer = load_tokenizer(folder)
    tokenizer.clean_up_tokenization_spaces = True
    text = "x = ( y , z ) ; a .b\n    not n't ?"
    ids = tokenizer.encode(text)
    assert text_after([5, 6], ids, tokenizer) == text


def test_a_chat_answer_ends_with_its_turn(make_model: ModelMaker) -> None:
    folder = make_model("model", dtype="float32", hidden=64, layers=1)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompt = tokenizer.encode(PROMPTS[0])
    written_alone = by_generate(model, prompt, 12)
    # What the model generates in the fifth place becomes a token that ends turns, and nothing else.
    end = tokenizer.convert_tokens_to_ids("<a>")
    with torch.no_grad():
        model.lm_head.weight[end] = 1.01 * model.lm_head.weight[written_alone[4]]
    at = written_alone.index(written_alone[4])
    assert written(model, tokenizer, [prompt], 1)[0].tokens[: at + 1] == (*written_alone[:at], end)
    assert len(written(model, tokenizer, [prompt], 1)[0].tokens) > at + 1
    tokenizer.add_special_tokens({"sep_token": "<a>"})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<a>{% endfor %}"
    for generator in (TransformersGenerator(model, tokenizer), StockGenerator(model, tokenizer, 1)):
        ((_, answer),) = generator.generate([Request(prompt, max_new_tokens=40)])
        assert answer.tokens == (*written_alone[:at], end)
        assert "<a>" not in answer.text
