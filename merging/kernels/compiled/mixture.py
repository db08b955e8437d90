"""One pass over a tensor of a task-vector merge, as a function of tensors (merging/kernels/native/task_vectors.c).

Guarantees: the bits of the C kernels. What depends on the tensors is found on the device (which of several equal
magnitudes top-k keeps, the L1 norm that rescaling restores), so that the host never waits for it; all numbers come in
a tensor, so that none of them is compiled in.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.arithmetic.magnitude_table import RUN
from merging.arithmetic.random_bits import random_numbers
from merging.kernels.compiled.rounding import rounded
from merging.kernels.passes import PassKind
from merging.methods.sparsification import SMALLEST_NORM

_SIDE = 1 << 8  # a run is searched as a square


class Column(enum.IntEnum):
    """The columns of a parent's row in the table of numbers; whole numbers are exact in float64."""

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
    NORM = enum.auto()
    WEIGHT = enum.auto()


DIVISOR, LAMBDA = 0, 1
"""The columns of the table's last row."""


@dataclass(frozen=True, slots=True)
class MixtureForm:
    """What a merge is compiled for, besides the number of its parents and their dtype."""

    kind: PassKind
    elect: bool
    normalize: bool
    rescale: bool
    search: bool  # whether an edge may have a rank


@dataclass(frozen=True, slots=True)
class _Edges:
    """The edges of all parents, (edges,) each: first all floors, then all ceilings."""

    until: Tensor
    rank: Tensor
    before: Tensor
    after: Tensor


def merge_task_vectors(
    form: MixtureForm, base: Tensor, parents: Sequence[Tensor], ranks: Sequence[Tensor], table: Tensor, out: Tensor
) -> None:
    """Write the merge of one tensor into `out`.

    Args:
        form: what the merge is compiled for.
        base: (elements,).
        parents: those that take part, (elements,) each, of the base's dtype.
        ranks: one per parent, (elements,) int16 or int32, if masks depend on ranks; else none.
        table: (parents + 1, columns) float64, in the columns of `Column`, `DIVISOR` and `LAMBDA`.
        out: (elements,), of the base's dtype.
    """
    dtype, wide = base.dtype, base.float()
    deltas = [rounded(parent.float() - wide, dtype) for parent in parents]
    kept = _kept(form, base, parents, deltas, ranks, table)
    for part, mask in enumerate(kept):
        delta = deltas[part] if mask is None else torch.where(mask, deltas[part], 0.0)
        if form.rescale:
            delta = rounded(delta * _scale(delta, table[part, Column.NORM], dtype), dtype)
        deltas[part] = rounded(delta * table[part, Column.WEIGHT].float(), dtype)
    mixed = _elected(form, deltas, table, dtype) if form.elect else _sum(form, deltas, table, dtype)
    mixed = rounded(mixed * table[-1, LAMBDA].float(), dtype)
    out.copy_((mixed + wide).to(dtype))


def _sum(form: MixtureForm, deltas: Sequence[Tensor], table: Tensor, dtype: torch.dtype) -> Tensor:
    total = rounded(_added(deltas), dtype)
    return rounded(total / table[-1, DIVISOR].float(), dtype) if form.normalize else total


def _elected(form: MixtureForm, deltas: Sequence[Tensor], table: Tensor, dtype: torch.dtype) -> Tensor:
    negative = torch.signbit(_added(deltas))
    turned = [torch.where(negative, -delta, delta) for delta in deltas]
    total = rounded(_added([delta.clamp(min=0.0) for delta in turned]), dtype)
    if form.normalize:
        weights = [table[part, Column.WEIGHT].float() for part in range(len(deltas))]
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
    form: MixtureForm,
    base: Tensor,
    parents: Sequence[Tensor],
    deltas: Sequence[Tensor],
    ranks: Sequence[Tensor],
    table: Tensor,
) -> list[Tensor | None]:
    """Return which elements of each task vector are kept, (elements,) bool; None for all."""
    index = torch.arange(base.numel(), device=base.device)
    if form.kind not in (PassKind.TOP_K, PassKind.BAND):
        return [
            _random_numbers(index, row) < (_limits(ranks[part], row) if ranks else row[Column.LIMIT].long())
            for part, row in enumerate(table[:-1].unbind())
        ]
    band = form.kind == PassKind.BAND
    edges = _edges(table, (Column.FLOOR_UNTIL, Column.CEILING_UNTIL) if band else (Column.FLOOR_UNTIL,))
    until = _search(base, parents, edges) if form.search else edges.until
    at = [torch.where(index < until[edge], edges.before[edge], edges.after[edge]) for edge in range(len(until))]
    kept: list[Tensor | None] = []
    for part, delta in enumerate(deltas):
        mask = delta.abs() > at[part]
        kept.append(mask & (delta.abs() <= at[len(deltas) + part]) if band else mask)
    return kept


def _edges(table: Tensor, firsts: Sequence[int]) -> _Edges:
    columns = [table[:-1, first : first + 4] for first in firsts]
    until, rank, before, after = (columns[0] if len(columns) == 1 else torch.cat(columns)).unbind(1)
    return _Edges(until.long(), rank.long(), before.float(), after.float())


def _search(base: Tensor, parents: Sequence[Tensor], edges: _Edges) -> Tensor:
    """Return for each edge the index after its last element of equal magnitude, (edges,) int64.

    That is the `rank`-th one from `until` on, within a run. All edges are searched at once, in a few small launches.
    """
    within = torch.arange(RUN, device=base.device).view(_SIDE, _SIDE)
    equal = _equal(base, parents, edges, edges.until[:, None, None] + within)
    seen = equal.sum(dim=2, dtype=torch.int32).cumsum(dim=1)  # (edges, rows)
    earlier = seen < edges.rank[:, None]
    left = edges.rank - torch.where(earlier, seen, 0).amax(dim=1)
    start = edges.until + earlier.sum(dim=1) * _SIDE
    equal = _equal(base, parents, edges, start[:, None] + torch.arange(_SIDE, device=base.device))
    column = (equal.to(torch.int32).cumsum(dim=1) < left[:, None]).sum(dim=1)
    return torch.where(edges.rank > 0, start + column + 1, edges.until)


def _equal(base: Tensor, parents: Sequence[Tensor], edges: _Edges, index: Tensor) -> Tensor:
    """Return whether the elements with these indices (edges, ...) have their edge's magnitude, in the index's shape."""
    magnitudes = torch.maximum(edges.before, edges.after)
    found = []
    for edge, own in enumerate(index):
        there = own < base.numel()
        at = torch.where(there, own, 0)
        delta = rounded(parents[edge % len(parents)][at].float() - base[at].float(), base.dtype)
        found.append(there & (delta.abs() == magnitudes[edge]))
    return torch.stack(found)


def _scale(kept: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the factor that restores an L1 norm, () float32, rounded as in sparsification.rescaled; 1 if tiny."""
    after = kept.abs().sum(dtype=torch.float64)
    narrow = [norm.float().to(dtype) for norm in (before, after)]
    ratio = (narrow[0] / narrow[1]).double()
    ratio = torch.where(torch.isfinite(narrow[0]) & torch.isfinite(narrow[1]), ratio, before / after)
    negligible = (before < SMALLEST_NORM) | (after < SMALLEST_NORM)
    return torch.where(negligible, 1.0, ratio).float()


def _random_numbers(index: Tensor, row: Tensor) -> Tensor:
    """Return the random numbers of the elements, int64: limits may be 2**31."""
    key, second_key = (row[column].to(torch.int32) for column in (Column.KEY, Column.SECOND_KEY))
    return random_numbers(index.to(torch.int32), key, second_key).long()


def _limits(ranks: Tensor, row: Tensor) -> Tensor:
    return (ranks.float() * row[Column.SLOPE].float() + row[Column.INTERCEPT].float()).long()
