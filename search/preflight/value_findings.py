"""Findings about the values of the parents: NaN, Inf, and what is too large for the dtype of the merges."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import isfinite, isnan
from typing import TYPE_CHECKING

import torch

from merging.checkpoints.largest_magnitude import largest_magnitude, overflows
from search.preflight.finding import Finding

if TYPE_CHECKING:
    from search.preflight.subject import Subject

_VALUES = "values"


def values(subject: Subject) -> Iterator[Finding]:
    """Read all parents' weights, piece by piece, and yield those that the merges' dtypes cannot hold."""
    tensors = {tensor for recipe in subject.candidates for tensor in subject.merger.plan(recipe).tensors}
    dtypes = {dtype for tensor in tensors for dtype in (tensor.dtype, tensor.out_dtype)}
    wanted = [(parent, tensor) for parent, tensor in subject.parents.stored_tensors() if parent in subject.names]
    largest: dict[str, dict[str, float]] = {}
    for done, (parent, tensor) in enumerate(wanted, start=1):
        largest.setdefault(parent, {})[tensor.name] = largest_magnitude(tensor)
        subject.progress.count("reading the parents", "tensors", done, len(wanted))
    yield from value_findings(largest, dtypes)


def value_findings(largest: Mapping[str, Mapping[str, float]], dtypes: Collection[torch.dtype]) -> Iterator[Finding]:
    """Yield what is wrong with the largest magnitudes of some models' tensors.

    Args:
        largest: the largest magnitudes, by model and tensor.
        dtypes: the dtypes that the tensors are merged and written in.
    """
    found = False
    for parent, each in largest.items():
        if broken := [name for name, value in each.items() if not isfinite(value)]:
            found, kind = True, "NaN" if any(isnan(each[name]) for name in broken) else "Inf"
            yield Finding(
                "problem",
                _VALUES,
                f"{parent}: holds {kind} in {_counted(broken)}, and so does every merge of it",
                "download it again, or take another checkpoint of it",
            )
        for dtype in sorted(dtypes, key=str):
            if beyond := [name for name, value in each.items() if overflows(value, dtype)]:
                found, worst, name = True, max(beyond, key=lambda name: each[name]), str(dtype).removeprefix("torch.")
                yield Finding(
                    "problem",
                    _VALUES,
                    f"{parent}: {_counted(beyond)} would overflow in {name}, which ends at "
                    f"{torch.finfo(dtype).max:,.0f}: the largest value is {each[worst]:,.0f}"
                    + (f", in {worst}" if len(beyond) > 1 else ""),
                    "set recipe.dtype: bfloat16 or float32",
                )
    if not found:
        top = max((value for each in largest.values() for value in each.values()), default=0.0)
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        yield Finding("ok", _VALUES, f"the largest weight is {top:.4g}, which {names} can hold")


def _counted(names: Collection[str]) -> str:
    first = next(iter(names))
    return first if len(names) == 1 else f"{len(names)} tensors (first {first})"
