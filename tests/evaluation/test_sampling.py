"""Sampled tokens: the distribution is the softmax's within the nucleus, and a draw depends only on its key."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.sampling import Sampling, TokenDraws
from evaluation.generation.stock_generator import StockGenerator
from evaluation.generation.token_choice import Drawing, choose, drawn, least_in_nucleus
from tests.parametrization import every

VOCABULARY = 700


def logits_of(seed: int, rows: int, scale: float) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.01, 1.0, 4.0, 12.0]),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
)
def test_the_nucleus_is_that_of_transformers(seed: int, scale: float, temperature: float, top_p: float) -> None:
    logits = logits_of(seed, 3, scale)
    warped = TemperatureLogitsWarper(temperature)(None, logits.clone())
    kept = TopPLogitsWarper(top_p)(None, warped) > -torch.inf
    probabilities = (logits / temperature).softmax(-1)
    padded = torch.nn.functional.pad(probabilities, (0, 64 - VOCABULARY % 64))
    least, found = least_in_nucleus(padded, torch.full((3,), top_p), whole=True)
    assert found.all()
    quick, found = least_in_nucleus(padded, torch.full((3,), top_p))
    assert torch.equal(quick[found], least[found])
    ours = (probabilities >= least[:, None]) & (probabilities > 0)
    # Both add up float32 numbers, in opposite orders: what lies within that of the edge may fall on either side.
    doubtful = (ours ^ (kept & (probabilities > 0))).nonzero()
    for row, token in doubtful.tolist():
        own = probabilities[row].double()
        above, equal = float(own[own > own[token]].sum()), float(own[own == own[token]].sum())
        assert above - 1e-4 <= top_p <= above + equal + 1e-4


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_tokens_are_drawn_as_often_as_they_are_likely(top_p: float) -> None:
    count, temperature = 20_000, 0.8
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -1.5, -2.0, -2.5])
    draw = TokenDraws("problem 0", temperature, top_p)
    found = choose(logits.expand(count, -1), [draw], [0], [count]).bincount(minlength=8)
    expected = (logits / temperature).softmax(-1).double()
    expected[expected.cumsum(-1) - expected >= top_p] = 0  # they stand in order
    expected /= expected.sum()
    assert not found[expected == 0].any()
    within = expected > 0
    assert chisquare(found[within].numpy(), (expected[within] * count).numpy()).pvalue > 0.01


def test_the_random_numbers_are_uniform_and_those_of_one_completion_alone() -> None:
    one, other = TokenDraws("0 0 HumanEval/0", 1.0), TokenDraws("0 1 HumanEval/0", 1.0)
    numbers = one.uniforms(0, 5000)
    assert kstest(numbers, "uniform").pvalue > 0.01
    assert numbers[100:200] == one.uniforms(100, 100)
    assert abs(float(torch.corrcoef(torch.tensor([numbers, other.uniforms(0, 5000)]))[0, 1])) < 0.05


def test_a_random_number_at_either_end_draws_a_token_that_is_possible() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]]).expand(2, -1)
    ones = torch.ones(2)
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert drawn(logits, Drawing(None, ones, None, uniform)).tolist() == [1, 2]


def test_without_a_draw_the_likeliest_is_chosen() -> None:
    logits = logits_of(1, 5, 2.0)
    mixed = choose(logits, [None, TokenDraws("x", 1.0), None], [0, 4, 0], [2, 2, 1])
    assert mixed[[0, 1, 4]].tolist() == logits.argmax(-1)[[0, 1, 4]].tolist()
    assert mixed[[2, 3]].tolist() == choose(logits[2:4], [TokenDraws("x", 1.0)], [4], [2]).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples 0"),
        ({"samples": 5}, "samples 5: all samples are the same at temperature 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 0.5}, "top_p 0.5: changes nothing at temperature 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def requests_of(tokenizer: Any, sampling: Sampling, drafts: dict[int, Any] | None = None) -> list[Request]:
    prompts = ["def f(x):", "a", "import os\n", "x = [1, 2"]
    return [
        Request(
            tokenizer.encode(prompt),
            max_new_tokens=8,
            draw=sampling.draw(prompt, sample),
            drafts=[drafts[index * sampling.samples + sample].tokens] if drafts else (),
        )
        for index, prompt in enumerate(prompts)
        for sample in range(sampling.samples)
    ]


@pytest.mark.parametrize("top_p", every(2, [0.9, 1.0]))
def test_neither_the_batch_nor_the_order_nor_drafts_change_a_sample(tiny_model: tuple[Any, Any], top_p: float) -> None:
    model, tokenizer = tiny_model
    sampling = Sampling(samples=3, temperature=0.7, top_p=top_p, seed=5)
    requests = requests_of(tokenizer, sampling)
    expected = dict(TransformersGenerator(model, tokenizer, 1, drafting=False).generate(requests))
    tokens = [expected[index].tokens for index in range(len(requests))]
    assert len(set(tokens)) == len(tokens)
    shuffled = random.Random(0).sample(range(len(requests)), len(requests))
    for generator in (TransformersGenerator(model, tokenizer, 5), StockGenerator(model, tokenizer, 4)):
        found = dict(generator.generate([requests[index] for index in shuffled]))
        assert [found[place].tokens for place in range(len(shuffled))] == [tokens[index] for index in shuffled]
    drafted = dict(TransformersGenerator(model, tokenizer).generate(requests_of(tokenizer, sampling, expected)))
    assert [drafted[index].tokens for index in range(len(requests))] == tokens
    others = dict(
        TransformersGenerator(model, tokenizer).generate(
            requests_of(tokenizer, Sampling(samples=3, temperature=0.7, top_p=top_p, seed=6))
        )
    )
    assert [others[index].tokens for index in range(len(requests))] != tokens


def test_a_prompt_is_read_once_for_all_its_samples(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    requests = requests_of(tokenizer, Sampling(samples=5, temperature=0.7))
    read: list[int] = []
    generator = TransformersGenerator(model, tokenizer, drafting=False)

    def count(_model: Any, _args: Any, given: dict[str, Any]) -> None:
        read.append(given["input_ids"].numel())

    with model.register_forward_pre_hook(count, with_kwargs=True):
        found = dict(generator.generate(requests))
    prompts = {tuple(request.prompt) for request in requests}
    # The last token of a prompt is read for each sample; the last one that a sample writes is not.
    assert sum(read) <= sum(map(len, prompts)) + sum(len(each.tokens) for each in found.values())
