"""One pass over a tensor of a task-vector merge, as a function of tensors (merging/native/task_vectors.c).

Guarantees: the bits of the C kernels. What depends on the tensors is found on the device (which of several equal
magnitudes a cut keeps, the L1 norm that rescaling restores), so that the host never waits for it; all numbers come in
a tensor, so that none of them is compiled in.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.inductor.rounding import all_finite, rounded
from merging.native.task_vectors import Thinning

RUN = 1 << 16
"""The elements among which the last one that is kept is searched: those that a magnitude table counts together."""

_SIDE = 1 << 8  # a run is searched as a square
_SMALLEST_NORM = 1e-7


class Number(enum.IntEnum):
    """The columns of a part's row in the table of numbers; whole ones are exact in float64."""

    FLOOR_UNTIL = 0
    FLOOR_RANK = enum.auto()
    FLOOR_BEFORE = enum.auto()
    FLOOR_AFTER = enum.auto()
    CEILING_UNTIL = enum.auto()
    CEILING_RANK = enum.auto()
    CEILING_BEFORE = enum.auto()
    CEILING_AFTER = enum.auto()
    KEY = enum.auto()
    SECOND_KEY = enum.auto()
    LIMIT = enum.auto()
    SLOPE = enum.auto()
    INTERCEPT = enum.auto()
    SCALE = enum.auto()
    NORM = enum.auto()
    WEIGHT = enum.auto()


DIVISOR, LAMBDA = 0, 1
"""The columns of the table's last row."""


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a merge is compiled for, besides the number of its parents and their dtype."""

    thinning: Thinning
    elect: bool
    normalize: bool
    rescale: bool
    search: bool  # whether an edge may have a rank
    in_rows: bool


@dataclass(frozen=True, slots=True)
class _Edge:
    """A magnitude, `before` some index and `after` it; () tensors each."""

    part: int
    until: Tensor
    rank: Tensor
    before: Tensor
    after: Tensor


def merge_task_vectors(
    form: TensorForm, base: Tensor, parents: Sequence[Tensor], ranks: Sequence[Tensor], table: Tensor, out: Tensor
) -> Tensor:
    """Write the merge of one tensor into `out`; return whether all of it is finite, () bool.

    Args:
        form: what is done.
        base: (elements,).
        parents: those that take part, (elements,) each, of the base's dtype.
        ranks: one a parent, (elements,) int16 or int32, where they are thinned out by rank.
        table: (parents + 1, columns) float64, what `Number`, `DIVISOR` and `LAMBDA` say.
        out: (elements,), of the base's dtype.
    """
    dtype, wide = base.dtype, base.float()
    deltas = [rounded(parent.float() - wide, dtype) for parent in parents]
    kept = _kept(form, base, parents, deltas, ranks, table)
    for part, mask in enumerate(kept):
        delta = deltas[part] if mask is None else torch.where(mask, deltas[part], 0.0)
        scale = _scale(delta, table[part], dtype) if form.rescale else table[part, Number.SCALE].float()
        delta = rounded(delta * scale, dtype)
        deltas[part] = rounded(delta * table[part, Number.WEIGHT].float(), dtype)
    mixed = _elected(form, deltas, table, dtype) if form.elect else _sum(form, deltas, table, dtype)
    mixed = rounded(mixed * table[-1, LAMBDA].float(), dtype)
    merged = (mixed + wide).to(dtype)
    out.copy_(merged)
    return all_finite(merged, form.in_rows)


def _sum(form: TensorForm, deltas: Sequence[Tensor], table: Tensor, dtype: torch.dtype) -> Tensor:
    total = rounded(_added(deltas), dtype)
    return rounded(total / table[-1, DIVISOR].float(), dtype) if form.normalize else total


def _elected(form: TensorForm, deltas: Sequence[Tensor], table: Tensor, dtype: torch.dtype) -> Tensor:
    negative = torch.signbit(_added(deltas))
    turned = [torch.where(negative, -delta, delta) for delta in deltas]
    total = rounded(_added([delta.clamp(min=0.0) for delta in turned]), dtype)
    if form.normalize:
        weights = [table[part, Number.WEIGHT].float() for part in range(len(deltas))]
        agreeing = [torch.where(delta > 0, weight, 0.0) for delta, weight in zip(turned, weights, strict=True)]
        divisor = rounded(_added(agreeing), dtype)
        total = rounded(total / torch.where(divisor == 0, 1.0, divisor), dtype)
    return torch.where(negative, -total, total)


def _added(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _kept(
    form: TensorForm,
    base: Tensor,
    parents: Sequence[Tensor],
    deltas: Sequence[Tensor],
    ranks: Sequence[Tensor],
    table: Tensor,
) -> list[Tensor | None]:
    """Return which elements of each task vector are kept, (elements,) bool; None for all."""
    index = torch.arange(base.numel(), device=base.device)
    if form.thinning not in (Thinning.CUT, Thinning.BAND):
        return [
            _random_numbers(index, row) < (_limits(ranks[part], row) if ranks else row[Number.LIMIT].long())
            for part, row in enumerate(table[:-1].unbind())
        ]
    edges = [_edge(table, part, Number.FLOOR_UNTIL) for part in range(len(parents))]
    band = form.thinning == Thinning.BAND
    edges += [_edge(table, part, Number.CEILING_UNTIL) for part in range(len(parents))] if band else []
    until = _search(base, parents, edges) if form.search else torch.stack([edge.until for edge in edges])
    at = [torch.where(index < end, edge.before, edge.after) for end, edge in zip(until, edges, strict=True)]
    kept: list[Tensor | None] = []
    for part, delta in enumerate(deltas):
        mask = delta.abs() > at[part]
        kept.append(mask & (delta.abs() <= at[len(deltas) + part]) if band else mask)
    return kept


def _edge(table: Tensor, part: int, first: int) -> _Edge:
    until, rank, before, after = table[part, first : first + 4].unbind()
    return _Edge(part, until.long(), rank.long(), before.float(), after.float())


def _search(base: Tensor, parents: Sequence[Tensor], edges: Sequence[_Edge]) -> Tensor:
    """Return for each edge the index behind its last equal, (edges,) int64.

    That is the `rank`-th from `until` on, within a run. All edges are searched at once, in a few small launches.
    """
    within = torch.arange(RUN, device=base.device).view(_SIDE, _SIDE)
    equal = torch.stack([_equal(base, parents, edge, edge.until + within) for edge in edges])
    until, rank = (torch.stack([getattr(edge, each) for edge in edges]) for each in ("until", "rank"))
    seen = equal.sum(dim=2, dtype=torch.int32).cumsum(dim=1)  # (edges, rows)
    earlier = seen < rank[:, None]
    row = earlier.sum(dim=1)
    left = rank - torch.where(earlier, seen, 0).amax(dim=1)
    start = until + row * _SIDE
    within = torch.arange(_SIDE, device=base.device)
    equal = torch.stack([_equal(base, parents, edge, first + within) for edge, first in zip(edges, start, strict=True)])
    column = (equal.to(torch.int32).cumsum(dim=1) < left[:, None]).sum(dim=1)
    return torch.where(rank > 0, start + column + 1, until)


def _equal(base: Tensor, parents: Sequence[Tensor], edge: _Edge, index: Tensor) -> Tensor:
    """Return which of the elements with these indices are of an edge's magnitude, like `index`."""
    there = index < base.numel()
    index = torch.where(there, index, 0)
    delta = rounded(parents[edge.part][index].float() - base[index].float(), base.dtype)
    return there & (delta.abs() == torch.maximum(edge.before, edge.after))


def _scale(kept: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what restores the L1 norm, () float32; rounded as sparsify.norm_ratio rounds it."""
    before, after = row[Number.NORM], kept.abs().sum(dtype=torch.float64)
    narrow = [norm.float().to(dtype) for norm in (before, after)]
    ratio = (narrow[0] / narrow[1]).double()
    ratio = torch.where(torch.isfinite(narrow[0]) & torch.isfinite(narrow[1]), ratio, before / after)
    negligible = (before < _SMALLEST_NORM) | (after < _SMALLEST_NORM)
    return torch.where(negligible, row[Number.SCALE], ratio).float()


def _random_numbers(index: Tensor, row: Tensor) -> Tensor:
    """Return the 31-bit random numbers of the elements (methods/random_bits.py), int64: limits may be 2**31."""
    x = index.to(torch.int32) ^ row[Number.KEY].to(torch.int32)
    x = (x ^ _shifted(x, 16)) * 0x7FEB352D
    x = ((x ^ _shifted(x, 15)) + row[Number.SECOND_KEY].to(torch.int32)) * (0x846CA68B - 2**32)
    return _shifted(x ^ _shifted(x, 16), 1).long()


def _shifted(x: Tensor, by: int) -> Tensor:
    # To the right, zeros coming in; int32 products wrap.
    return torch.bitwise_right_shift(x, by).bitwise_and(2 ** (32 - by) - 1)


def _limits(ranks: Tensor, row: Tensor) -> Tensor:
    return (ranks.float() * row[Number.SLOPE].float() + row[Number.INTERCEPT].float()).long()
