"""Merges have the bits that mergekit 0.1.5 gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import cycle, product

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from merging import METHODS, Merger, ParentSet, Recipe
from merging.kernels import eager
from merging.planning.plan import Step
from tests.merging.conftest import Family, make_family
from tests.merging.oracle import mergekit_merge
from tests.merging.recipes import NAMES, recipes
from tests.merging.zoo import STYLES, Zoo, every_parent
from tests.parametrization import every


def merge(text: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a merge by name, and where in each tensor a magnitude equals a trimming threshold."""
    recipe = Recipe.parse(text)
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        tensors = {name: tensor.clone() for name, tensor in merger.apply(recipe).state_dict().items()}
        undecided = {step.name: magnitude_ties(step, parents) for step in merger.steps(recipe)}
    return tensors, undecided


def magnitude_ties(step: Step, parents: ParentSet) -> Tensor:
    """Return a mask of the elements whose magnitude is exactly that at which some task vector is trimmed.

    Which of equals are kept is the one thing that mergekit leaves open (torch's unstable sort decides). Of zeros it
    does not matter.
    """
    first = parents.tensor(step.sources()[0].parent, step.sources()[0].tensor)
    ties = torch.zeros(first.shape, dtype=torch.bool)
    if step.method != "ties" or step.base is None:
        return ties
    dtype = step.dtype
    base = parents.tensor(step.base.parent, step.base.tensor).to(dtype)
    for source, density in zip(step.inputs, dict(step.per_input)["density"], strict=True):
        magnitude = (parents.tensor(source.parent, source.tensor).to(dtype) - base).abs()
        if density < 1:
            kept = max(1, int(density * magnitude.numel()))
            cut = magnitude.flatten().sort(descending=True).values[kept - 1]
            ties |= (magnitude == cut) & (cut > 0)
    return ties


def check(text: str, relative: float, most_undecided: float = 0.05) -> None:
    """Compare with mergekit, away from magnitude ties; only so many elements may be in ties.

    `relative` 0 asks for equal bits, else a difference may be that part of each tensor's largest value.
    """
    ours, undecided = merge(text)
    theirs = mergekit_merge(text)
    assert theirs.keys() == ours.keys() - ({"lm_head.weight"} - theirs.keys())
    assert torch.cat([mask.flatten() for mask in undecided.values()]).float().mean() < most_undecided
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        difference = (ours[name].double() - expected.double()).abs().masked_fill(undecided[name], 0)
        assert difference.max() <= relative * expected.double().abs().max(), name


def check_every_element(text: str, relative: float) -> None:
    """Compare with mergekit when its sort, too, keeps the first of equals: no element is left open then."""
    ours, _ = merge(text)
    for name, expected in mergekit_merge(text, stable_sort=True).items():
        assert ours[name].dtype == expected.dtype
        difference = (ours[name].double() - expected.double()).abs()
        assert difference.max() <= relative * expected.double().abs().max(), name


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *zip(NAMES, cycle(["bfloat16", "float16"]), strict=False),
        *(pytest.param(*it, marks=pytest.mark.slow) for it in zip(NAMES, cycle(["float16", "bfloat16"]), strict=False)),
    ],
)
def test_a_16_bit_merge_has_mergekits_bits(family: Family, name: str, dtype: str) -> None:
    check(recipes(family, dtype)[name], relative=0.0)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ties")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_where_mergekit_keeps_the_first_of_equals_no_bit_differs(family: Family, name: str, dtype: str) -> None:
    check_every_element(recipes(family, dtype)[name], relative=0.0)


@pytest.mark.parametrize("name", every(2, NAMES))
def test_a_float32_merge_is_mergekits(float32_family: Family, name: str) -> None:
    check(recipes(float32_family, "float32")[name], relative=1e-6)


@pytest.mark.parametrize("name", ["ties", "slerp", "linear", "task_arithmetic"])
def test_a_sharded_model_with_biases_and_a_tied_head_merges_as_in_mergekit(qwen_family: Family, name: str) -> None:
    check(recipes(qwen_family, "bfloat16")[name], relative=0.0)


def test_without_a_dtype_the_merge_has_that_of_its_parents(family: Family) -> None:
    check(recipes(family, "bfloat16")["ties"].replace("dtype: bfloat16", ""), relative=0.0)


@pytest.fixture(scope="session", params=STYLES)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    """A float32 family of each architecture in turn, with its parents open."""
    architecture = request.param
    options = {"architecture": architecture, "dtype": "float32", "tokenizer": False, **STYLES[architecture][0]}
    family = make_family(tmp_path_factory.mktemp(architecture), **options)
    with ParentSet.open(every_parent(family)) as parents:
        yield Zoo(architecture, family, parents)


def every_method() -> list[ParameterSet]:
    """Return every pair of architecture and method, and of each with a dtype; by default a fifth of them."""
    dtypes = ("float32", "bfloat16", "float16")
    methods = [name for name, method in METHODS.items() if method.in_mergekit]
    found = []
    for (row, architecture), (column, method) in product(enumerate(STYLES), enumerate(methods)):
        dtype = dtypes[(row + column) % len(dtypes)]
        marks = [pytest.mark.slow] if (row + column) % 5 else []
        found.append(pytest.param(architecture, method, dtype, marks=marks))
    return found


@pytest.mark.parametrize(("zoo", "method", "dtype"), every_method(), indirect=["zoo"])
def test_every_method_merges_every_architecture_as_mergekit_does(zoo: Zoo, method: str, dtype: str) -> None:
    text = zoo.recipe(method, dtype)
    merger = Merger(zoo.parents)
    recipe = Recipe.parse(text)
    ours = merger.apply(recipe).state_dict()
    layout = zoo.parents.architecture.layout
    ours = {layout.name_of(name): tensor for name, tensor in ours.items()}
    theirs = mergekit_merge(text, stable_sort=True)
    assert set(theirs) == {step.name for step in merger.steps(recipe)}
    for name, expected in theirs.items():
        expected = expected.to(getattr(torch, dtype))  # arcee_fusion and ramplus_tl leave it in float32
        difference = (ours[name].double() - expected.double()).abs().max()
        assert difference <= (1e-6 if dtype == "float32" else 0.0) * expected.double().abs().max(), name


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
@pytest.mark.parametrize("rescale", ["true", "false"])
def test_a_random_merge_has_mergekits_density_mean_and_norm(float32_family: Family, method: str, rescale: str) -> None:
    text = recipes(float32_family, "float32")["task_arithmetic"].replace("task_arithmetic", method)
    text = text.replace("parameters: {}", f"parameters: {{density: 0.4, epsilon: 0.3, rescale: {rescale}}}")
    ours, _ = merge(text)
    torch.manual_seed(0)
    theirs = mergekit_merge(text)
    base = mergekit_merge(f"merge_method: passthrough\nmodels: [{{model: {float32_family.base}}}]\n")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        deltas = [merged[name] - base[name] for merged in (ours, theirs)]
        kept = [float((delta != 0).float().mean()) for delta in deltas]
        norms = [float(delta.abs().sum()) for delta in deltas]
        # About five deviations of two independent draws; the deltas have heavy tails.
        assert kept[0] == pytest.approx(kept[1], abs=0.04)
        assert norms[0] == pytest.approx(norms[1], rel=0.15)
        spread = float(torch.stack(deltas).std()) / deltas[0].numel() ** 0.5
        assert float(deltas[0].mean()) == pytest.approx(float(deltas[1].mean()), abs=5 * 2**0.5 * spread)


@pytest.mark.parametrize("zoo", ["llama"], indirect=True)
@pytest.mark.parametrize("method", every(6, (name for name, method in METHODS.items() if not method.observes)))
def test_a_merge_has_the_same_bits_in_other_blocks_by_more_threads_and_again(
    zoo: Zoo, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(zoo.recipe(method, "bfloat16", random_masks=True))
    first = {name: tensor.clone() for name, tensor in Merger(zoo.parents).apply(recipe).state_dict().items()}
    threads = torch.get_num_threads()
    for block, thread_count in ((1 << 19, 3), (777, 2)):
        monkeypatch.setitem(eager._BLOCK, "cpu", block)
        torch.set_num_threads(thread_count)
        try:
            # The second time without what was remembered of the parents.
            with ParentSet.open(recipe) if block == 777 else nullcontext(zoo.parents) as parents:
                again = Merger(parents).apply(recipe).state_dict()
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(first[name], again[name]) for name in first), (block, thread_count)
