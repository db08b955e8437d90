"""On a GPU: parents on the card, in pinned memory or in their files give the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging import MergeOptions, Merger, ParentSet, Recipe
from merging.checkpoints.checkpoint import Checkpoint
from merging.residency.budget import Budget
from merging.residency.copy_queue import CudaCopyQueue
from merging.residency.residency import Residency
from merging.residency.transfers import Transfers
from tests.merging.conftest import Family, make_family
from tests.merging.peft_oracle import save_adapter
from tests.merging.test_merger import text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PLENTY = 10**9


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family(tmp_path_factory.mktemp("llama"))


def merged(recipe: Recipe, device: str, budget: Budget | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a merge that is made twice in a row, on the CPU."""
    with ParentSet.open(recipe, MergeOptions(device, memory_budget=budget)) as parents:
        parents.load()
        Merger(parents, random_seed=5).apply(recipe)
        again = Merger(parents, random_seed=5).apply(recipe).state_dict()
        return {name: tensor.cpu() for name, tensor in again.items()}


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "task_arithmetic"])
def test_a_merge_has_the_same_bits_wherever_its_parents_are(family: Family, method: str) -> None:
    recipe = Recipe.parse(text(family, method))
    size = Checkpoint.open(family.base).nbytes
    expected = merged(recipe, "cuda", Budget(PLENTY, 0))
    for budget in (
        Budget(0, PLENTY), Budget(0, 0), Budget(size, PLENTY), Budget(size, size), Budget(0, size), None,
        Budget(0, PLENTY, chunk=1), Budget(0, 0, chunk=1), Budget(size, size, chunk=1),
    ):  # fmt: skip
        found = merged(recipe, "cuda", budget)
        assert all(torch.equal(found[name], expected[name]) for name in expected), budget


def test_an_adapted_parent_has_the_bits_that_it_has_on_the_cpu(family: Family, tmp_path: Path) -> None:
    adapter = save_adapter(family.base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    recipe = Recipe.single(f"{family.base}+{adapter}")
    expected = merged(recipe, "cpu", None)
    for budget in (Budget(PLENTY, 0), Budget(0, PLENTY), Budget(0, 0)):
        found = merged(recipe, "cuda", budget)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_tensors_are_kept_on_the_card_first_and_then_in_pinned_memory(family: Family) -> None:
    stored = list(Checkpoint.open(family.a).tensors.values())
    room = sum(tensor.nbytes for tensor in stored[:4])
    residency = Residency(torch.device("cuda", 0), Budget(room, room))
    kept = [residency.keep(tensor) for tensor in stored]
    assert all(tensor is not None and tensor.is_cuda for tensor in kept[:4])
    on_host = [tensor for tensor in kept if tensor is not None and not tensor.is_cuda]
    assert on_host
    assert all(tensor.is_pinned() for tensor in on_host)
    assert None in kept
    for tensor in stored:
        found = residency.get(tensor)
        assert found.is_cuda
        assert torch.equal(found.cpu(), tensor.read())


def test_a_group_stays_whole_while_the_next_one_is_copied(family: Family) -> None:
    device = torch.device("cuda", 0)
    stored = list(Checkpoint.open(family.a).tensors.values())
    groups = [stored[index : index + 2] for index in range(0, len(stored) - 1, 2)] * 20
    transfers = Transfers(CudaCopyQueue(device))
    sums: list[torch.Tensor] = []
    transfers.begin(dict.fromkeys(groups[0]))
    for index, group in enumerate(groups):
        if index + 1 < len(groups):
            transfers.begin(dict.fromkeys(groups[index + 1]))
        torch.cuda._sleep(100_000)  # type: ignore[no-untyped-call]  # the work is late, and the copies must wait for it
        found = [transfers.take(tensor) for tensor in group]
        sums += [tensor.double().sum() for tensor in found if tensor is not None]
    expected = [tensor.read().double().sum() for group in groups for tensor in group]
    assert torch.allclose(torch.stack(sums).cpu(), torch.stack(expected))
    transfers.close()
