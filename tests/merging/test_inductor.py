"""The functions for torch.compile have the bits of plain torch and of the C kernels, compiled and not."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merging import Merger, MergingError, NonFiniteTensor, ParentSet, Recipe
from merging.kernels.compiled import CompiledKernels
from merging.kernels.interface import Target
from merging.kernels.native import NativeKernels
from merging.kernels.passes import FORMATS
from merging.methods import METHODS
from merging.methods.task_vectors import Mixture, cannot_overflow
from tests.merging.conftest import Family, make_family
from tests.merging.operands import PlainOperands, defaults, run
from tests.merging.recipes import recipes
from tests.merging.test_native import DENSITY, TASK_VECTORS, WEIGHT, assert_same_bits, tensors

C = NativeKernels()
UNCOMPILED = CompiledKernels(lambda function, form: partial(function, form))
TAKEN = ("ties", "ties, not normalized, lambda, rescale", "ties, cancelling weights", "out_dtype", "slerp", "linear")


@given(data=st.data())
def test_a_merge_of_task_vectors_has_the_same_bits(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(TASK_VECTORS))
    dtype = data.draw(st.sampled_from(list(FORMATS)))
    count = data.draw(st.integers(1, 3))
    elements = data.draw(st.sampled_from([5000, 4096, 70_000]))
    base, *inputs = tensors(count, dtype, elements)
    shape = data.draw(st.sampled_from([(-1,), (elements // 8, 8), (elements, 1)]))
    base, *inputs = (tensor.view(shape) for tensor in (base, *inputs))
    shared = {
        "normalize": data.draw(st.booleans()),
        "lambda": data.draw(st.sampled_from([1.0, 0.7])),
        "rescale": data.draw(st.booleans()),
    }
    weights = data.draw(st.lists(WEIGHT, min_size=count, max_size=count))
    densities = data.draw(st.lists(DENSITY, min_size=count, max_size=count))
    per_input = {"weight": weights, "density": densities, "epsilon": [0.05] * count, "gamma": [0.02, 0, 0.3][:count]}
    expected = run(method, base, inputs, shared, per_input)
    assert_same_bits(run(method, base, inputs, shared, per_input, UNCOMPILED), expected)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("normalize", [True, False])
def test_an_average_has_the_bits_of_the_c_kernels(dtype: torch.dtype, normalize: bool) -> None:
    _, *inputs = tensors(3, dtype)
    numbers = ({"normalize": normalize}, {"weight": [0.3, 0.9, -0.2]})
    assert_same_bits(run("linear", None, inputs, *numbers, UNCOMPILED), run("linear", None, inputs, *numbers, C))


@pytest.mark.parametrize("kept", [150_000, 66_667, 66_668, 199_999])
def test_the_last_equal_that_a_top_k_keeps_is_found_in_any_run(kept: int) -> None:
    base = torch.zeros(200_000, dtype=torch.bfloat16)
    fine_tune = torch.full_like(base, 0.5)
    fine_tune[::3] = 1.0  # 66,667 of them
    numbers = ({}, {"weight": [1.0], "density": [(kept + 0.5) / len(base)]})
    merged = run("ties", base, [fine_tune], *numbers, UNCOMPILED)
    halves = (fine_tune == 0.5).nonzero().flatten()
    assert int((merged == 1).sum()) == 66_667
    assert torch.equal((merged == 0.5).nonzero().flatten(), halves[: kept - 66_667])


@pytest.mark.parametrize("name", TAKEN)
def test_a_live_model_has_the_same_bits(family: Family, name: str) -> None:
    recipe = Recipe.parse(recipes(family, "bfloat16")[name])
    with ParentSet.open(recipe) as parents:
        expected = Merger(parents, kernels=C).apply(recipe).state_dict()
        found = Merger(parents, kernels=UNCOMPILED).apply(recipe).state_dict()
        for key, tensor in expected.items():
            assert_same_bits(found[key], tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["ties", "linear"])
def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, name: str, value: float) -> None:
    family = make_family(tmp_path, layers=2)
    weights = load_file(Path(family.a) / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][5, 5] = value
    save_file(weights, Path(family.a) / "model.safetensors", metadata={"format": "pt"})
    recipe = Recipe.parse(recipes(family, "bfloat16")[name])
    with ParentSet.open(recipe) as parents, pytest.raises(NonFiniteTensor, match=r"layers\.1\.mlp\.up_proj"):
        Merger(parents, kernels=UNCOMPILED).apply(recipe)


@pytest.mark.parametrize("shared", [{}, {"normalize": True}, {"lambda": 0.01}, {"rescale": True}])
@pytest.mark.parametrize("method", TASK_VECTORS)
def test_an_overflow_in_the_merge_alone_is_noticed(method: str, shared: dict[str, float]) -> None:
    # Also where what overflowed is multiplied by a small lambda afterwards.
    base = torch.full((3000,), 100.0, dtype=torch.float16)
    inputs = [base + torch.arange(3000).half(), base + 2 * torch.arange(3000).half()]
    for factor, second in product((0.1, 0.9, 3.0), (1.0, -0.9)):
        weight = factor * 65504 / 9000
        each = {
            "weight": (weight, second * weight),
            "density": (0.9, 0.8),
            "epsilon": (0.05, 0.05),
            "gamma": (0.01, 0.0),
        }
        known = {key: values for key, values in each.items() if METHODS[method].parameter(key)}
        parameters = defaults(method, 2) | shared | known
        operands = PlainOperands(base, inputs, kernels=UNCOMPILED)
        out = torch.empty_like(base)
        found = UNCOMPILED.merge(METHODS[method], operands, parameters, Target(out, (base.dtype,)))
        assert bool(found) == bool(torch.isfinite(out).all()), (factor, second)


def test_a_merge_that_cannot_overflow_is_not_looked_at() -> None:
    base, *inputs = tensors(2, torch.bfloat16)
    operands = PlainOperands(base, inputs, kernels=UNCOMPILED)
    parameters = defaults("ties", 2) | {"weight": (0.3, 0.7), "density": (0.5, 0.5)}
    mixture = METHODS["ties"].prepare(operands, parameters)
    assert isinstance(mixture, Mixture)
    assert cannot_overflow(operands, mixture)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dtype", "shared"),
    [
        ("ties", torch.bfloat16, {}),
        ("breadcrumbs_ties", torch.float16, {"rescale": True}),
        ("dare_ties", torch.bfloat16, {"rescale": True, "normalize": True}),
        ("della_linear", torch.float32, {}),
    ],
)
def test_compiled_task_vectors_have_the_bits_of_the_c_kernels(
    method: str, dtype: torch.dtype, shared: dict[str, bool]
) -> None:
    compiled = CompiledKernels()
    with torch.inference_mode():
        for elements in (70_000, 5000):
            base, *inputs = tensors(2, dtype, elements)
            for change in (0.0, 0.1, 0.2):
                numbers = {"weight": [0.3 + change, 0.7], "density": [0.37 - change, 0.9], "epsilon": [0.05, 0.02]}
                expected = run(method, base, inputs, shared, numbers, C)
                assert_same_bits(run(method, base, inputs, shared, numbers, compiled), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FORMATS)
def test_compiled_averages_have_the_bits_of_the_c_kernels(dtype: torch.dtype) -> None:
    compiled = CompiledKernels()
    base, *inputs = tensors(2, dtype, 4096)
    numbers = ({"normalize": True}, {"weight": [0.3, 0.9, -0.2]})
    with torch.inference_mode():
        found = run("linear", None, [base, *inputs], *numbers, compiled)
        assert_same_bits(found, run("linear", None, [base, *inputs], *numbers, C))
        expected = run("slerp", base, inputs[:1], {"t": 0.3}, kernels=C)
        assert_same_bits(run("slerp", base, inputs[:1], {"t": 0.3}, kernels=compiled), expected)


@pytest.mark.slow
def test_other_sizes_and_numbers_are_not_compiled_again() -> None:
    compiled, counters = CompiledKernels(), torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    with torch.inference_mode():
        for elements in (4096, 70 * 1024, 2048):
            base, *inputs = tensors(2, torch.bfloat16, elements)
            for change in (0.0, 0.1, 0.2):
                numbers = {"weight": [0.3 + change, 1.0 + change], "density": [0.37 - change, 0.9]}
                run("ties", base, inputs, {"lambda": 1.0 - change}, numbers, compiled)
    assert counters["unique_graphs"] - before == 1


@pytest.mark.slow
def test_what_keeps_torch_compile_from_working_is_said(tmp_path: Path) -> None:
    code = "import torch; from merging.kernels.compiled import CompiledKernels; CompiledKernels.on(torch.device('cpu'))"
    broken = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True, check=False)
    assert f"{MergingError.__name__}: torch.compile does not work on cpu" in done.stderr
