"""Slopes: how a function of the merged weights changes with the recipe, given only the function's gradient.

Only the model is differentiated: two recipes are merged, and the difference of the two merges is multiplied by the
gradient. So this works for every method and each of its parameters, densities included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from merging.execution import run_steps
from merging.kernels import Kernels
from merging.parents import ParentSet
from merging.planning.plan import Step

# Products are summed in float64, in blocks of this many elements: the difference of two merges is small beside both.
_BLOCK = 1 << 20


def dots(
    steps: Sequence[Step], gradients: Mapping[str, Tensor], parents: ParentSet, random_seed: int, kernels: Kernels
) -> dict[str, float]:
    """Return the scalar product of each merged tensor with the gradient of its name, by name.

    Args:
        steps: what to merge; nothing is written anywhere.
        gradients: the gradients of at least these tensors.
        parents: the open parents.
        random_seed: the seed of methods that draw random numbers.
        kernels: the kernels to compute with.

    Raises:
        MergingError: a method has no answer for some tensors.
        NonFiniteTensor: a merged tensor holds NaN or Inf.
    """
    found: dict[str, Tensor] = {}

    @contextmanager
    def dotted(step: Step) -> Iterator[Tensor]:
        gradient = gradients[step.name]
        out = torch.empty_like(gradient, dtype=torch.float32)
        yield out
        blocks = zip(torch.split(out.view(-1), _BLOCK), torch.split(gradient.reshape(-1), _BLOCK), strict=True)
        found[step.name] = sum((a.double() @ b.double() for a, b in blocks), start=torch.zeros((), dtype=torch.float64))

    # The merge itself has found what is kept of a task vector. To find it in float32 would take longer than all else.
    wide = [replace(it, dtype=torch.float32, out_dtype=torch.float32, mask_dtype=it.dtype) for it in steps]
    work = [(step, dotted(step)) for step in wide]
    run_steps(work, parents, random_seed, kernels, lambda _: None)
    return {step.name: float(found[step.name]) for step in steps}
