"""Slopes along recipe parameters, against float64 autograd and against the function's own change."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import cycle

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from merging import METHODS, Merger, ParentSet, Recipe, load_model
from merging.methods import Scope
from tests.conftest import ModelMaker
from tests.merging.conftest import Family, make_family
from tests.parametrization import every

TOKENS = torch.tensor([[5, 17, 40, 3, 99, 23, 8, 61], [9, 2, 77, 31, 18, 4, 52, 90]])
MOVE = 1e-2


def recipe(family: Family, method: str, weights: tuple[float, float], density: float = 0.5) -> Recipe:
    keys = {parameter.key for parameter in METHODS[method].parameters}
    models = [
        {"model": model, "parameters": {k: v for k, v in (("weight", w), ("density", density)) if k in keys}}
        for model, w in zip((family.a, family.b), weights, strict=True)
    ]
    data = {"merge_method": method, "models": models, "dtype": "float32"}
    return Recipe.from_dict(data | ({} if method == "linear" else {"base_model": family.base}), "test")


def loss(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), TOKENS[:, 1:].reshape(-1))


def gradients(merger: Merger, at: Recipe) -> dict[str, Tensor]:
    model = merger.apply(at).requires_grad_(True)
    with torch.enable_grad():
        loss(model(TOKENS).logits).backward()
    model.requires_grad_(False)
    return merger.take_gradients()


def slope(merger: Merger, low: Recipe, high: Recipe, at: Recipe) -> float:
    return sum(merger.slopes(gradients(merger, at), low, high).values())


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_the_slope_along_a_weight_is_that_of_autograd(float32_family: Family, method: str) -> None:
    at, low, high = (recipe(float32_family, method, (0.4 + move, 0.7)) for move in (0, -MOVE, MOVE))
    with ParentSet.open(at) as parents:
        found = slope(Merger(parents), low, high, at) / (2 * MOVE)
    assert found == pytest.approx(_autograd(float32_family, method), rel=1e-3)


def _autograd(family: Family, method: str) -> float:
    """Return the loss's slope along the first weight, by float64 autograd through the whole merge."""
    models: list[PreTrainedModel] = [load_model(path).double() for path in (family.base, family.a, family.b)]
    base, a, b = (dict(model.named_parameters()) for model in models)
    weight = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def merged(name: str) -> Tensor:
        if method == "linear":
            return (weight * a[name] + 0.7 * b[name]) / (weight + 0.7)
        return base[name] + weight * (a[name] - base[name]) + 0.7 * (b[name] - base[name])

    with torch.enable_grad():
        found = loss(functional_call(models[0], {name: merged(name) for name in base}, (TOKENS,)).logits)
        (slope,) = torch.autograd.grad(found, weight)
    return float(slope)


# What parameters are moved around; those of a method that are not here keep their defaults.
CENTRES = {
    "weight": 0.8, "density": 0.6, "t": 0.4, "lambda": 0.9, "select_topk": 0.6, "gamma": 0.02, "tall_lambda": 0.4,
    "rank_fraction": 0.6, "common_fraction": 0.7, "r": 0.1, "alpha": 0.2, "scale": 0.9,
}  # fmt: skip
# They need texts, or have no numbers to move.
LEFT_OUT = {"fisher", "regmean", "arcee_fusion", "karcher", "model_stock", "wudi", "ram", "passthrough"}


def farthest(method: str, dtype: str) -> float:
    """Return how far parameters are moved, as a part of them.

    Where masks are drawn or ranks are cut, more would move too much of a tensor for a first order. In bfloat16, less
    would be lost in the rounding of what is merged.
    """
    if method.startswith(("dare", "della", "tsv")):
        return 0.03
    return 0.1 if dtype == "float32" else 0.18


def moved(family: Family, method: str, dtype: str, draw: Callable[[], float]) -> Recipe:
    """Return a recipe of a method with all its numbers moved away from `CENTRES`."""

    def numbers(per_parent: bool) -> dict[str, float]:
        # The t of nearswap is a distance between elements; above all of theirs it changes nothing.
        centres = CENTRES | ({"t": 0.002} if method == "nearswap" else {})
        own = (
            p for p in METHODS[method].parameters if p.key in CENTRES and (p.scope is not Scope.SHARED) is per_parent
        )
        return {parameter.key: centres[parameter.key] * (1 + draw()) for parameter in own}

    models = [{"model": model, "parameters": numbers(per_parent=True)} for model in (family.a, family.b)]
    if method in ("slerp", "nearswap"):
        models = [{"model": family.b}]
    data = {"merge_method": method, "models": models, "dtype": dtype, "parameters": numbers(per_parent=False)}
    base = {} if method in ("linear",) else {"base_model": family.a if len(models) == 1 else family.base}
    return Recipe.from_dict(data | base, "test")


@torch.inference_mode()
def value(merger: Merger, at: Recipe) -> float:
    return float(loss(merger.apply(at)(TOKENS).logits.double()))


@pytest.fixture(scope="module")
def wide_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family wide enough that single elements do not decide."""
    return make_family(tmp_path_factory.mktemp("wide"), dtype="float32", hidden=48, layers=2)


QUICK = [("linear", "float32"), ("slerp", "float32"), ("ties", "bfloat16")]


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *every(2, QUICK),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in zip(sorted(METHODS.keys() - LEFT_OUT), cycle(["bfloat16", "float32"]), strict=False)
            if case not in QUICK
        ),
    ],
)
def test_slopes_foretell_the_change_of_the_function(wide_family: Family, method: str, dtype: str) -> None:
    """Along random directions in the space of all parameters of a method, densities too."""
    draw = random.Random(0)
    foretold, seen = [], []
    centre = moved(wide_family, method, dtype, lambda: 0.0)
    with ParentSet.open(centre) as parents:
        merger = Merger(parents, compute_dtype=torch.float32)
        found = gradients(merger, centre)
        for _ in range(10):
            way = [draw.uniform(-1, 1) * farthest(method, dtype) for _ in range(20)]
            low, high = (moved(wide_family, method, dtype, partial(next, iter([s * w for w in way]))) for s in (-1, 1))
            foretold.append(sum(merger.slopes(found, low, high).values()))
            losses = [value(merger, end) for end in (low, high)]
            seen.append(losses[1] - losses[0])
    assert torch.corrcoef(torch.tensor([foretold, seen]))[0, 1] > 0.9


def test_tensors_that_share_their_memory_count_together(float32_family: Family) -> None:
    """A layer that a stack repeats has the gradients of all its copies."""
    parts = [{"sources": [{"model": float32_family.a, "layer_range": [0, 2]}]} for _ in range(2)]
    stack = Recipe.from_dict({"merge_method": "passthrough", "slices": parts, "dtype": "float32"}, "test")
    with ParentSet.open(stack) as parents:
        merger = Merger(parents)
        found = gradients(merger, stack)
        model = merger.apply(stack).requires_grad_(True)
        with torch.enable_grad():
            loss(model(TOKENS).logits).backward()
        own = [model.model.layers[layer].mlp.up_proj.weight.grad for layer in (0, 2)]
    name = "model.layers.{}.mlp.up_proj.weight"
    assert name.format(2) not in found
    torch.testing.assert_close(found[name.format(0)], own[0] + own[1])


@pytest.mark.parametrize("tied", [False, True])
def test_slopes_are_the_same_where_no_gradient_outlives_its_tensor(make_model: ModelMaker, tied: bool) -> None:
    base, a, b = (make_model(name, seed=seed, tied=tied) for seed, name in enumerate("xyz"))

    def at(weight: float) -> Recipe:
        models = [{"model": model, "parameters": {"weight": weight}} for model in (a, b)]
        data = {"merge_method": "ties", "base_model": base, "models": models, "dtype": "float32"}
        return Recipe.from_dict(data, "test")

    pairs = [(at(0.3), at(0.5)), (at(0.4), at(0.9))]
    with ParentSet.open(at(0.4)) as parents:
        merger = Merger(parents)
        found = gradients(merger, at(0.4))
        whole = [merger.slopes(found, *pair) for pair in pairs]
        model = merger.apply(at(0.4))
        most = 0

        def count(_: Tensor) -> None:
            nonlocal most
            most = max(most, sum(parameter.grad is not None for parameter in model.parameters()))

        with merger.slopes_in_backward(pairs) as changes:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(count)
            for _ in range(2):
                with torch.enable_grad():
                    loss(model(TOKENS).logits).backward()
    assert most == 0
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for one, twice in zip(whole, changes, strict=True):
        assert twice == pytest.approx({name: 2 * change for name, change in one.items()}, rel=1e-5, abs=1e-9)


def test_the_live_model_stays_as_it_is(float32_family: Family) -> None:
    at, high = (recipe(float32_family, "ties", (weight, 0.7)) for weight in (0.4, 0.9))
    with ParentSet.open(at) as parents:
        merger = Merger(parents)
        found = gradients(merger, at)
        before = {name: tensor.clone() for name, tensor in merger.apply(at).state_dict().items()}
        merger.slopes(found, at, high)
        assert all(torch.equal(before[name], tensor) for name, tensor in merger.apply(at).state_dict().items())


def test_what_does_not_change_has_no_slope(float32_family: Family) -> None:
    at = recipe(float32_family, "ties", (0.4, 0.7))
    with ParentSet.open(at) as parents:
        merger = Merger(parents)
        assert merger.slopes(gradients(merger, at), at, at) == {}
