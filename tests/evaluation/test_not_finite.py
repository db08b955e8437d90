"""Logits that are NaN or infinite end their own row at once, and change nothing else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation import Evaluator, load_problems
from evaluation.errors import LogitsError
from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.sampling import TokenDraws
from evaluation.generation.stock_generator import StockGenerator
from evaluation.generation.token_choice import NONE, Drawing, choose, drawn
from evaluation.report import NOT_FINITE

PROMPTS = ["def f(x):", "a", "import os\n", "b", "x = [1, 2", "# long"]
# Those of them that have the token for which the model's logits are not finite.
POISONED = [1, 3]


def poisoned(model: Any, token: int) -> Any:
    """Return a model that knows nothing finite of a token."""
    changed = copy.deepcopy(model)
    assert changed.get_input_embeddings().weight is not changed.get_output_embeddings().weight
    with torch.no_grad():
        changed.get_input_embeddings().weight[token] = math.nan
    return changed


def requests_of(tokenizer: Any, samples: int = 1, draw: TokenDraws | None = None) -> list[Request]:
    draws = [replace(draw, key=f"{draw.key} {sample}") if draw else None for sample in range(samples)]
    return [Request(tokenizer.encode(prompt), max_new_tokens=12, draw=each) for prompt in PROMPTS for each in draws]


def plainly(model: Any, tokenizer: Any, requests: list[Request]) -> list[tuple[int, ...]]:
    """Return what a model generates, each text by itself and without guesses."""
    found = dict(TransformersGenerator(model, tokenizer, 1, drafting=False).generate(requests))
    return [found[index].tokens for index in range(len(requests))]


def unused(requests: list[Request], written: list[tuple[int, ...]]) -> int:
    used = {token for request in requests for token in request.prompt}.union(*written)
    return next(token for token in range(30, 200) if token not in used)


def generators(model: Any, tokenizer: Any) -> Iterator[TransformersGenerator | StockGenerator]:
    for rows, drafting in ((1, True), (2, True), (2, False), (6, False)):
        yield TransformersGenerator(model, tokenizer, rows, drafting=drafting)
    for rows in (2, 6):
        yield StockGenerator(model, tokenizer, rows)


def bad(kind: str, vocabulary: int) -> Tensor:
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    row[5] = {"nan": math.nan, "+inf": math.inf, "nan and -inf": math.nan, "all -inf": -math.inf}[kind]
    if kind.endswith("-inf"):
        row[[index for index in range(vocabulary) if index != 5]] = -math.inf
    return row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("top_p", [None, 1.0, 0.95])
def test_no_token_is_chosen_by_logits_that_are_not_finite(dtype: torch.dtype, top_p: float | None) -> None:
    for kind, vocabulary in product(("nan", "+inf", "nan and -inf", "all -inf"), (320, 300, 7)):
        no_token_is_chosen(dtype, kind, vocabulary, top_p)


def no_token_is_chosen(dtype: torch.dtype, kind: str, vocabulary: int, top_p: float | None) -> None:
    good = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0)).to(dtype)
    good[2, 3:] = -math.inf  # rows of a padded vocabulary may be masked so
    draws = [TokenDraws(str(row), 0.8, top_p) if top_p else None for row in range(4)]
    expected = choose(good, draws, [0] * 4, [1] * 4).tolist()
    mixed = good.clone()
    mixed[1] = bad(kind, vocabulary).to(dtype)
    assert choose(mixed, draws, [0] * 4, [1] * 4).tolist() == [expected[0], NONE, *expected[2:]]
    some = [draws[0], draws[1], None, draws[3]]
    assert choose(mixed, some, [0] * 4, [1] * 4).tolist()[1] == NONE
    assert NONE not in expected


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-46, 1e30])
def test_a_temperature_of_any_size_draws_a_token(temperature: float) -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0)) * 1000
    uniform = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = drawn(logits, Drawing(None, torch.full((3,), temperature), None, uniform))
    assert (found >= 0).all()
    assert temperature > 1 or found.tolist() == logits.argmax(-1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [None, TokenDraws("x", 0.7, 0.9)],
    ids=["greedy", "nucleus"],
)
def test_a_row_that_is_not_finite_ends_and_the_others_are_as_ever(
    draw: TokenDraws | None, tiny_model: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_model
    samples = 2 if draw else 1
    requests = requests_of(tokenizer, samples, draw)
    expected = plainly(model, tokenizer, requests)
    token = unused(requests, expected)
    bad = {index * samples + sample for index in POISONED for sample in range(samples)}
    mixed = [
        replace(request, prompt=[*request.prompt, token, 40]) if index in bad else request
        for index, request in enumerate(requests)
    ]
    for generator in generators(poisoned(model, token), tokenizer):
        found = dict(generator.generate(mixed))
        assert {index for index in found if not found[index].finite} == bad
        assert [found[index].tokens for index in range(len(mixed))] == [
            () if index in bad else tokens for index, tokens in enumerate(expected)
        ]


def test_a_guess_that_is_not_finite_changes_no_token(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    requests = requests_of(tokenizer)
    expected = plainly(model, tokenizer, requests)
    token = unused(requests, expected)
    for at, rows in ((0, 1), (1, 2), (7, 3)):
        # Right up to a token, and then not finite; for some of the rows, which leave their slots to others.
        bent = [(*tokens[:at], token, token, *tokens[at:]) for tokens in expected[:3]]
        drafted = [replace(request, drafts=[draft]) for request, draft in zip(requests, bent, strict=False)]
        generator = TransformersGenerator(poisoned(model, token), tokenizer, rows)
        found = dict(generator.generate([*drafted, *requests[3:]]))
        assert [found[row].tokens for row in range(len(requests))] == expected
        assert all(each.finite for each in found.values())


def test_a_row_ends_where_its_own_text_is_not_finite(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    requests = requests_of(tokenizer)
    expected = plainly(model, tokenizer, requests)
    token = next(token for token in expected[0][4:-1] if all(token not in request.prompt for request in requests))
    for generator in generators(poisoned(model, token), tokenizer):
        for index, found in generator.generate(requests):
            whole = expected[index]
            end = whole.index(token) + 1 if token in whole[:-1] else len(whole)
            assert (found.tokens, found.finite) == (whole[:end], end == len(whole))


def test_a_reference_that_is_not_finite_has_no_likelihood(tiny_model: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_model
    requests = requests_of(tokenizer)
    expected = plainly(model, tokenizer, requests)
    token = unused(requests, expected)
    asked = [replace(request, reference=(40, 41, token, 42)) for request in requests]
    changed = poisoned(model, token)
    found = dict(TransformersGenerator(changed, tokenizer, 3).generate(asked))
    assert [found[row].tokens for row in range(len(requests))] == expected
    assert all(math.isnan(each.log_likelihood or 0) and each.finite for each in found.values())


def problems_with(prompts: list[str], folder: Path) -> Any:
    lines = [
        {
            "task_id": f"t/{number}",
            "prompt": f"def f(x):\n    return x  # {prompt}",
            "entry_point": "f",
            "canonical_solution": "",
            "test": "def check(candidate):\n    assert candidate(3) == 3\n",
        }
        for number, prompt in enumerate(prompts)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_problems(folder / "problems.jsonl")


def test_problems_that_are_not_finite_have_failed_and_the_report_says_so(
    tiny_model: tuple[Any, Any], tmp_path: Path
) -> None:
    tokenizer = tiny_model[1]
    problems = problems_with(["a", "Z", "c"], tmp_path)
    model = poisoned(tiny_model[0], tokenizer.encode("Z")[0])
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=4, workers=1) as evaluator:
        report = evaluator.evaluate(model, tokenizer)
        broken = report.outcomes["t/1"]
        assert (broken.passed, broken.status, broken.detail) == (False, "failed", NOT_FINITE)
        assert [report.outcomes[task].detail == NOT_FINITE for task in problems.task_ids] == [False, True, False]
        assert report.note == "its logits are not finite (NaN or Inf) on 1 of 3 completions"
        with pytest.raises(LogitsError, match=r"logits are not finite .* for any prompt"):
            evaluator.evaluate(model, tokenizer, problems=problems.subset(["t/1"]))
