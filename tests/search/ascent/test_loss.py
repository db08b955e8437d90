"""The loss on solutions."""

from __future__ import annotations

import pytest
import torch

from evaluation import Solution
from merging import load_model
from search.ascent.loss import loss_of, losses, margins_of
from tests.search.family import Family

SOLUTIONS = [
    Solution("a", (5, 9, 30), (7, 8)),
    Solution("b", (5, 9, 30, 31, 32, 4), (7,)),
    Solution("c", (8,), (3, 1, 4)),
]


def test_margins_are_to_the_best_other_token() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    assert margins_of(logits, torch.tensor([1, 2])).tolist() == [2.0, -2.0]


def test_the_loss_is_that_of_the_formula() -> None:
    margins = torch.tensor([0.3, -1.0, 4.0], dtype=torch.float64)
    miss = torch.sigmoid(-margins / 0.5)
    assert float(loss_of(margins)) == pytest.approx(float(1 - torch.prod(1 - miss) ** 0.3))


def test_a_solution_has_the_loss_that_it_has_by_itself(shared_family: Family) -> None:
    """Whatever it is padded to, and in whatever order solutions come."""
    model = load_model(str(shared_family.a)).float()
    with torch.no_grad():
        together = losses(model, SOLUTIONS)
        for solution, loss in zip(SOLUTIONS, together, strict=True):
            ids = torch.tensor([[*solution.prompt, *solution.completion]])
            logits = model(ids).logits[0, len(solution.prompt) - 1 : -1]
            alone = loss_of(margins_of(logits, torch.tensor(solution.completion)))
            assert loss == pytest.approx(float(alone), abs=1e-5)


def test_batches_leave_their_graph(shared_family: Family) -> None:
    model = load_model(str(shared_family.a)).float().requires_grad_(True)
    losses(model, SOLUTIONS, lambda batch: batch.sum().backward())
    assert all(parameter.grad is not None for parameter in model.parameters())
