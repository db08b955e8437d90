"""WUDI: a merged task vector that interferes least with the inputs that each task vector stands for (arXiv:2503.08099).

The rows of a linear layer's task vector nearly span the inputs that it was trained on. So the merge's error on them is
measured without data, and minimized by Adam, as in the paper. Everything but matrices (vectors, embeddings, filters of
convolutions) gets the average of the task vectors. Guarantees: the optimized task vector depends only on the parents
and the optimizer's numbers; no random numbers. Sections, lines and theorems are those of the paper's version 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.extra.task_vector_sums import TaskVectorSum, made_of_task_vectors, plus_base
from merging.methods.operands import Block, Operands
from merging.methods.registry import method
from merging.statistics import forms

_MERGED = forms.optional_tensor(version=1)
# Adam as the paper runs it: torch's defaults.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


def optimize(
    operands: Operands,
    lambda_: Shared[float] = Default(1.0),
    iterations: Shared[int] = Default(300, low=0),
    learning_rate: Shared[float] = Default(1e-5, low=0.0),
) -> TaskVectorSum:
    """Return the optimized task vector, which depends only on the parents, `iterations` and `learning_rate`."""
    count = operands.count
    mean = TaskVectorSum((lambda_ / max(count, 1),) * count)
    if not operands.is_matrix or not count:
        return mean
    adam = Adam(int(iterations), learning_rate)  # a gradient interpolates to a float
    found = made_of_task_vectors(
        operands, "wudi", range(count), adam, lambda vectors: least_interfering(vectors, adam), _MERGED
    )
    return mean if found is None else TaskVectorSum((lambda_,), found.flatten().unsqueeze(0))


@method(
    "wudi",
    source="arXiv:2503.08099",
    base="required",
    prepare=optimize,
    keeps_base=True,
    in_mergekit=False,
    keeps="matrix",
)
def wudi(block: Block, change: TaskVectorSum) -> Tensor:
    """Return base + lambda · τ, where τ minimizes Σ ‖(τ - τ_i) τ_iᵀ‖² / ‖τ_i‖²; all parents count alike."""
    return plus_base(block, change)  # algorithm 1, line 15: θ_m = θ + τ_m


@dataclass(frozen=True, slots=True)
class Adam:
    """How long and how fast to optimize."""

    iterations: int
    learning_rate: float

    def steps(self) -> Iterator[tuple[float, float]]:
        """Yield the step's length and the square root of the second moment's bias, for each iteration."""
        for number in range(1, self.iterations + 1):
            yield self.learning_rate / (1 - _BETA_1**number), (1 - _BETA_2**number) ** 0.5


def least_interfering(vectors: Tensor, settings: Adam) -> Tensor:
    """Return the task vector that Adam makes from the sum of `vectors`, (parents, ..., out, in), by the paper's loss.

    Algorithm 1. The loss (section 3.3) is Σ ‖(τ_m - τ_i) τ_iᵀ‖² / ‖τ_i‖²: its numerator is the first term of theorem
    1's bound on the interference. A task vector that is zero has nothing to interfere with.
    """
    norms = vectors.square().sum(dim=(-2, -1), keepdim=True)
    norms = norms.masked_fill_(norms == 0, 1)
    # The loss is quadratic: its gradient is 2 (τ A - B), whatever the number of parents. With one parent it starts at
    # zero, and must do so to the last bit: Adam takes full steps even along rounding errors.
    grams = [vector.mT @ vector / norm for vector, norm in zip(vectors, norms, strict=True)]
    a = reduce(torch.add, grams)
    b = reduce(torch.add, (vector @ gram for vector, gram in zip(vectors, grams, strict=True)))
    merged = vectors.sum(dim=0)
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    for length, bias in settings.steps():
        # Appendix A.1.4: Σ 2 / ‖τ_i‖² · (τ_m τ_iᵀ - τ_i τ_iᵀ) τ_i.
        gradient = (merged @ a).sub_(b).mul_(2)
        first.lerp_(gradient, 1 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        # Algorithm 1, line 9, by Adam.
        merged.addcdiv_(first, second.sqrt().div_(bias).add_(_EPSILON), value=-length)
    return merged
