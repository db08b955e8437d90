"""A candidate is enqueued: the host waits for a device once, at its end, however many tensors there are."""

from __future__ import annotations

import pytest
import torch

from merging import ParentSet, Recipe, execution
from merging.arithmetic.magnitude_table import RUN
from merging.kernels import EAGER
from merging.merger import Merger
from merging.residency.budget import Budget
from tests.benchmarks.candidates import METHODS, benchmark_recipes, candidate
from tests.merging.conftest import Family, make_family
from tests.merging.counted import DEVICE, counted_candidates
from tests.parametrization import every

PLENTY = 1 << 40


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family(tmp_path_factory.mktemp("llama"), layers=1)


@pytest.mark.parametrize("method", every(8, ["ties", *METHODS[1:]]))
@pytest.mark.parametrize("budget", every(2, [Budget(PLENTY, 0), Budget(0, PLENTY)]))
def test_the_host_waits_at_most_once_a_candidate(family: Family, method: str, budget: Budget) -> None:
    recipe = Recipe.parse(benchmark_recipes(family)[method])
    (counts,) = counted_candidates([recipe, candidate(recipe, 1)], budget)
    passes = counts.names.count("merge_task_vectors") + counts.names.count("weighted_sum")
    assert passes > 5
    assert counts.waits <= 1
    # Besides the pass: the extremes, and what looks at them.
    assert counts.launches <= 5 * passes + 1
    sources = 0 if budget.device else 3
    assert counts.copies <= (1 + sources) * passes  # the numbers of a tensor come in one copy


def test_the_shared_changes_of_ramplus_tl_are_counted_once_for_an_epsilon(family: Family) -> None:
    models = f"base_model: {family.base}\nmodels: [{{model: {family.a}}}, {{model: {family.b}}}]\ndtype: bfloat16"
    recipes = [
        Recipe.parse(f"merge_method: ramplus_tl\n{models}\nparameters: {{r: {r}, alpha: {alpha}}}")
        for r, alpha in ((0.1, 0.2), (0.2, 0.2), (0.2, 0.4))
    ]
    assert all(counts.waits <= 1 for counts in counted_candidates(recipes, Budget(PLENTY, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget(PLENTY, 0), Budget(0, PLENTY)])
def test_ranks_that_have_no_room_on_the_device_are_copied_and_not_waited_for(family: Family, budget: Budget) -> None:
    recipe = Recipe.parse(benchmark_recipes(family)["della"])
    recipes = [recipe, candidate(recipe, 1)]
    (here,), (on_host,) = (
        counted_candidates(recipes, budget, statistics=place) for place in (DEVICE, torch.device("cpu"))
    )
    assert (on_host.waits, on_host.launches) == (here.waits, here.launches)
    assert on_host.copies > here.copies


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family of which some tensors have several runs."""
    return make_family(tmp_path_factory.mktemp("large"), layers=1, hidden=512)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic"])
def test_what_is_too_large_for_a_buffer_is_copied_in_pieces(large: Family, method: str) -> None:
    recipe = Recipe.parse(benchmark_recipes(large)[method])
    together, pieces = (
        counted_candidates([recipe, candidate(recipe, 1)], Budget(0, PLENTY, chunk))[0] for chunk in (1 << 30, 1)
    )
    assert pieces.waits <= 1
    assert pieces.copies > together.copies
    assert pieces.copied_bytes == pytest.approx(together.copied_bytes, rel=0.01)  # each source once
    sources = 2 if method == "slerp" else 3
    assert pieces.most <= 8 * sources * RUN * 2  # a piece is a run here, of bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "slerp"])
def test_a_merge_in_pieces_has_the_same_bits(large: Family, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.parse(benchmark_recipes(large)[method])

    class InPieces(execution.StepOperands):
        at_once = RUN

    def merged() -> dict[str, torch.Tensor]:
        with ParentSet.open(recipe) as parents:
            found = Merger(parents, random_seed=1, kernels=EAGER).apply(recipe).state_dict()
            assert max(tensor.numel() for tensor in found.values()) > 2 * RUN
            return {name: tensor.clone() for name, tensor in found.items()}

    whole = merged()
    monkeypatch.setattr(execution, "StepOperands", InPieces)
    pieces = merged()
    assert all(torch.equal(pieces[name], whole[name]) for name in whole)
