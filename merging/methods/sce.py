"""SCE: select the elements in which the parents differ most, weigh parents, erase what disagrees (arXiv:2408.07990)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merging.methods.declarations import Default, Shared
from merging.methods.magnitudes import Magnitudes, locate, read_size
from merging.methods.operands import Block, Operands
from merging.methods.registry import method
from merging.methods.sparsification import KEEP_NONE, Sparsification
from merging.statistics import forms
from merging.statistics.forms import Form

_DIFFERING: Form[int] = forms.plain(version=1)
_SMALLEST_ENERGY = 1e-6
_SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class SelectedElements:
    """Which elements are merged, and how much each parent counts there.

    Attributes:
        top_k: the top-k of the variance between the parents; None for all elements.
        weights: (parents, 1), in the dtype of the merge.
    """

    top_k: Sparsification | None
    weights: Tensor


def select(
    operands: Operands,
    select_topk: Shared[float] = Default(1.0, low=0.0, high=1.0),
    int8_mask: Shared[bool] = Default(False),  # noqa: ARG001 - saves memory in mergekit; there is no mask here
) -> SelectedElements:
    """Select the `select_topk` part of the elements that differ between parents; weigh parents by their energy there.

    Of equal variances those that come first are taken.
    """
    if not operands.count:
        return SelectedElements(KEEP_NONE, torch.empty(0, 1))
    top_k = _top_k(operands, select_topk)
    if top_k is None:
        every = range(operands.count)
        return SelectedElements(None, operands.once("energies", every, lambda: _weights(operands, None)))
    return SelectedElements(top_k, _weights(operands, top_k))


@method("sce", source="arXiv:2408.07990", base="required", prepare=select, keeps="variance")
def sce(block: Block, selection: SelectedElements) -> Tensor:
    """Return the base plus the weighted mean of the selected changes that have the sign of their sum.

    Rounds to the dtype of the merge after every step.
    """
    if selection.top_k is KEEP_NONE:
        return block.base
    changes = _selected(block, selection.top_k)
    # Erase: the changes whose sign is not that of their sum.
    majority = (changes.sum(dim=0) >= 0).to(changes.dtype).mul_(2).sub_(1)
    weights = selection.weights * (changes.sign() == majority)
    total = weights.sum(dim=0).clamp_(min=_SMALLEST_WEIGHT)
    # Task arithmetic with these coefficients; mergekit divides by those that are left at an element, too.
    return changes.mul_(weights).sum(dim=0).div_(total).add_(block.base)


def _top_k(operands: Operands, part: float) -> Sparsification | None:
    if part >= 1 or not operands.elements:
        return None
    inputs = range(operands.count)
    differing = operands.once(
        "differing",
        inputs,
        lambda: sum(int(torch.count_nonzero(_variance(b))) for b in operands.blocks(read_size(operands))),
        kept=_DIFFERING,
    )
    if not (selected := int(differing * part)):
        return KEEP_NONE
    # Select: the top τ% of the elements by their variance across the changes (the paper's fusion vectors).
    floor = Magnitudes.of("variances", operands, inputs, _variance).largest(selected)
    return Sparsification(floor=locate(operands, _variance, floor))


def _weights(operands: Operands, top_k: Sparsification | None) -> Tensor:
    """Return each parent's part of the mean square of the selected changes, (parents, 1); equal parts if it is tiny."""
    changes = _selected(operands.block(0, operands.elements), top_k)
    energies = changes.square_().mean(dim=1, keepdim=True)
    total = float(energies.sum())
    if abs(total) < _SMALLEST_ENERGY:
        return torch.ones_like(energies) / operands.count
    return energies / total  # Calculate: the sum of squares of the selected elements, over that of all parents


def _selected(block: Block, top_k: Sparsification | None) -> Tensor:
    """Return the changes (parents, elements), zero where the variance of an element is not in the top-k."""
    changes = _changes(block)
    if top_k is not None:
        changes.mul_(top_k.apply(_variance(block), block.start) != 0)
    return changes


def _variance(block: Block) -> Tensor:
    return torch.var(_changes(block), dim=0, unbiased=False)


def _changes(block: Block) -> Tensor:
    return torch.stack(block.inputs).sub_(block.base)
