"""PCB-Merging: parameters compete within a task vector and between them (arXiv:2410.02396).

An element scores high where its task vector is large (within: softmax of N · norm(τ_i²)) and where the task vectors
agree (between: the sum over j of softmax of norm(τ_i τ_j)); norm maps a tensor to [0, 1], softmax is over its elements.
The paper takes a model as one long vector; here, as with TIES, each tensor is one. Elementwise, and so the same for
matrices, vectors and embeddings. Guarantees: what the scores are normalized by depends only on the parents, is
computed once, and does not depend on the blocks that a tensor is read in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.arithmetic.magnitude_table import RUN
from merging.methods.declarations import Default, PerParent, Shared
from merging.methods.extra.task_vector_sums import taking_part, wide
from merging.methods.magnitudes import Edge, Magnitudes, read_size
from merging.methods.operands import Block, Operands
from merging.methods.registry import method
from merging.methods.sparsification import delta_extremes
from merging.statistics import forms
from merging.statistics.forms import Form

_MEASURES: Form[tuple[tuple[float, float, float], ...]] = forms.plain(version=1)


@dataclass(frozen=True, slots=True)
class Softmax:
    """A softmax of products: exp(sharpness · (x - least) / span) / total."""

    sharpness: float
    least: float
    span: float
    total: float = 1.0

    def __call__(self, products: Tensor) -> Tensor:
        """Return the softmax of products, in place."""
        # Products that are all alike are normalized to zero.
        slope = self.sharpness / self.span if self.span else 0.0
        return products.sub_(self.least).mul_(slope).exp_().div_(self.total)


@dataclass(frozen=True, slots=True)
class Competition:
    """How the task vectors of one tensor compete.

    Attributes:
        inputs: the inputs that take part: their weight is not zero, and they differ from the base.
        within: the softmax of each one's squares.
        between: the softmax of the products of each two, by their indices in rising order.
    """

    inputs: tuple[int, ...]
    within: Mapping[int, Softmax]
    between: Mapping[tuple[int, int], Softmax]

    def scores(self, vectors: Mapping[int, Tensor], index: int) -> Tensor:
        """Return the scores of an input's elements, given a block of all task vectors that take part."""
        own = vectors[index]
        # Inter-balancing: β_inter,i = Σ_j Softmax(Norm(τ_i ⊙ τ_j)).
        between = torch.zeros_like(own)
        for other, vector in vectors.items():
            between.add_(self.between[min(index, other), max(index, other)](own * vector))
        # Intra-balancing: β_intra,i = Softmax(N · Norm(τ_i ⊙ τ_i)); and β_i = β_intra,i ⊙ β_inter,i.
        return between.mul_(self.within[index](own.square()))


@dataclass(frozen=True, slots=True)
class Winners:
    """The competition; the floor of the scores that win, one per input (None where all do); the weights; lambda."""

    competition: Competition
    floors: Mapping[int, Edge | None]
    weights: tuple[float, ...]
    scale: float


def select(
    operands: Operands,
    weight: PerParent[float] = Default(1.0),
    lambda_: Shared[float] = Default(1.0),
    density: Shared[float] = Default(0.1, low=0.0, high=1.0),  # as in the authors' code
) -> Winners | None:
    """Return which elements win: the `density` part of each task vector with the highest scores.

    Of equal scores those that come first win. None if a task vector holds a NaN or an Inf.
    """
    extremes = {index: delta_extremes(operands, index) for index in taking_part(weight)}
    if not all(math.isfinite(bound) for pair in extremes.values() for bound in pair):
        return None
    inputs = tuple(index for index, pair in extremes.items() if pair != (0, 0))
    competition = _compete(operands, inputs)
    kept = int(density * operands.elements)
    floors = {index: _floor(operands, competition, index, kept) for index in inputs}
    return Winners(competition, floors, weight, lambda_)


@method(
    "pcb",
    source="arXiv:2410.02396",
    base="required",
    prepare=select,
    keeps_base=True,
    in_mergekit=False,
    keeps="magnitudes",
)
def pcb(block: Block, winners: Winners | None) -> Tensor:
    """Return base + lambda · Σ score · weight · τ_i / Σ score over the parents whose element wins; else the base.

    By the paper's equations; the authors' code has exp and tanh in place of the two softmaxes.
    """
    if winners is None:
        return torch.full_like(block.base, math.nan)
    vectors = _vectors(block, winners.competition.inputs)
    base = block.base.to(wide(block.base.dtype))
    total, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for index, floor in winners.floors.items():
        scores = winners.competition.scores(vectors, index)
        if floor is not None:
            _keep_above(floor, scores, block.start)  # drop and rescale: β̂_i = m_i ⊙ β_i
        divisor.add_(scores)
        total.addcmul_(scores, vectors[index], value=winners.weights[index])
    # Merge: τ_m = Σ β̂_i ⊙ τ_i / Σ β̂_i; and θ_m = θ_pre + λ · τ_m.
    change = total.div_(divisor.masked_fill_(divisor == 0, 1)).mul_(winners.scale)
    return change.add_(base).to(block.base.dtype)


def _keep_above(floor: Edge, scores: Tensor, start: int) -> None:
    until = min(max(floor.until - start, 0), len(scores))
    scores[:until] *= scores[:until] > floor.before
    scores[until:] *= scores[until:] > floor.after


def _floor(operands: Operands, competition: Competition, index: int, kept: int) -> Edge | None:
    if kept >= operands.elements:
        return None

    def read(block: Block) -> Tensor:
        return competition.scores(_vectors(block, competition.inputs), index)

    def find() -> Edge:
        if kept == 0:
            return Edge(0, math.inf, math.inf)
        every, dtype = range(operands.count), wide(operands.dtype)
        # Only the tables of the last inputs that took part are held: there are many subsets.
        scores = Magnitudes.of(f"pcb_scores {index}", operands, every, read, dtype, values=competition.inputs)
        return scores.largest(kept)  # m_i: 1 for the part r (`density`) of β_i that is greatest, else 0

    # Named by its place among those that take part: another recipe may have the same ones at other indices.
    place = competition.inputs.index(index)
    return operands.last(f"pcb_floor {place}", competition.inputs, kept, find)


def _compete(operands: Operands, inputs: Sequence[int]) -> Competition:
    pairs = [(one, other) for one in inputs for other in inputs if one <= other]
    sharpnesses = [((index, index), len(inputs)) for index in inputs] + [(pair, 1) for pair in pairs]

    def measure() -> tuple[tuple[float, float, float], ...]:
        ranges = {pair: _range(operands, pair) for pair in pairs}
        return tuple(_measure(operands, pair, sharpness, *ranges[pair]) for pair, sharpness in sharpnesses)

    measured = operands.once("pcb", inputs, measure, kept=_MEASURES)
    made = [Softmax(sharpness, *each) for (_, sharpness), each in zip(sharpnesses, measured, strict=True)]
    within, between = made[: len(inputs)], made[len(inputs) :]
    return Competition(tuple(inputs), dict(zip(inputs, within, strict=True)), dict(zip(pairs, between, strict=True)))


def _range(operands: Operands, pair: tuple[int, int]) -> tuple[float, float]:
    lows, highs = zip(*(torch.aminmax(products) for products in _products(operands, pair)), strict=True)
    return float(torch.stack(lows).amin()), float(torch.stack(highs).amax())


def _measure(
    operands: Operands, pair: tuple[int, int], sharpness: float, low: float, high: float
) -> tuple[float, float, float]:
    """Return what the products of two task vectors are normalized by: least, span, and the total of the softmax."""
    unscaled = Softmax(sharpness, low, high - low)
    sums = [
        run.sum(dtype=torch.float64)
        for products in _products(operands, pair)
        for run in torch.split(unscaled(products), RUN)
    ]
    return low, high - low, math.fsum(torch.stack(sums).tolist())


def _products(operands: Operands, pair: tuple[int, int]) -> Iterator[Tensor]:
    for block in operands.blocks(read_size(operands)):
        vectors = _vectors(block, pair)
        yield vectors[pair[0]] * vectors[pair[1]]


def _vectors(block: Block, inputs: Sequence[int]) -> dict[int, Tensor]:
    base = block.base.to(wide(block.base.dtype))
    return {index: block.inputs[index].to(base.dtype) - base for index in inputs}
