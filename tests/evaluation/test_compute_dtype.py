"""What a model computes in follows from what was measured, and changes no token that float32 would write."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from evaluation import Speeds, compute_speeds
from merging import compute_in_float32, load_model, load_tokenizer
from tests.conftest import ModelMaker
from tests.evaluation.test_generation import PROMPTS, by_generate, written
from tests.parametrization import every


@pytest.mark.parametrize(
    ("own", "float32", "choice"),
    [
        (7.3, 1.3, "float32"),
        (1.3, 1.0, "float32"),
        (1.29, 1.0, "recipe"),
        (1.0, 1.0, "recipe"),
        (0.04, 0.2, "recipe"),
    ],
)
def test_float32_is_chosen_where_it_is_a_third_faster(own: float, float32: float, choice: str) -> None:
    assert Speeds(own, float32).choice == choice


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shapes",
    [
        [(64, 32), (32, 64), (32,)],
        [(4, 96, 32), (4, 32, 48), (262, 32)],  # experts
        [(50_000, 5_000), (5_000, 20_000)],
    ],
)
def test_products_of_the_models_shapes_are_measured_and_torch_keeps_its_threads(
    dtype: torch.dtype, shapes: list[tuple[int, ...]]
) -> None:
    threads = torch.get_num_threads()
    speeds = compute_speeds(shapes, dtype)
    assert speeds is not None
    assert speeds.own > 0
    assert speeds.float32 > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("shapes", "dtype"), [([(64, 32)], torch.float32), ([(64, 32)], torch.float64), ([(64,)], torch.bfloat16)]
)
def test_where_there_is_nothing_to_choose_nothing_is_measured(
    shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> None:
    assert compute_speeds(shapes, dtype) is None


@pytest.mark.parametrize("dtype", every(2, ["bfloat16", "float16"]))
@pytest.mark.parametrize("tied", every(2, [True, False]))
def test_a_model_of_16_bits_that_computes_in_float32_writes_what_generate_writes_in_float32(
    make_model: ModelMaker, dtype: str, tied: bool
) -> None:
    folder = make_model("model", dtype=dtype, tied=tied, hidden=64)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    compute_in_float32(model)
    oracle: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    found = written(model, tokenizer, prompts, 3)
    for index, ids in enumerate(prompts):
        assert list(found[index].tokens) == by_generate(oracle, ids, 40)
