"""Breadcrumbs: a task vector without its largest changes, and without its smallest (arXiv:2312.06795).

Guarantees: keeps the elements that mergekit 0.1.5 keeps if its sort leaves equals in their order.
"""

from __future__ import annotations

from merging.methods.declarations import Default, PerParent
from merging.methods.operands import Operands
from merging.methods.sparsification import KEEP_NONE, NO_CEILING, NO_FLOOR, Sparsification, delta_magnitudes


def band(
    operands: Operands,
    index: int,
    density: tuple[float, ...],
    rescale: bool,
    gamma: PerParent[float] = Default(0.01, low=0.0, high=1.0),
) -> Sparsification | None:
    """Keep int(density · elements) entries of a task vector, below its largest.

    The int(gamma · elements) largest are removed first, then the smallest; fewer of the largest, if otherwise fewer
    would be left than the density asks for. A density of 1 keeps all, whatever gamma is. With `rescale` the kept
    elements are scaled so that the task vector keeps its L1 norm. The paper's mask has a threshold for either tail of a
    layer's sorted magnitudes: it eliminates weight outliers and negligible perturbations.
    """
    elements = operands.elements
    if density[index] >= 1 or elements == 0:
        return None
    kept = int(density[index] * elements)
    if kept <= 0:
        return KEEP_NONE
    smallest = max(0, elements - kept - int(gamma[index] * elements))
    magnitudes = delta_magnitudes(operands, index)
    # The left tail, negligible perturbations; the right tail, outliers.
    floor = magnitudes.smallest(smallest) if smallest else NO_FLOOR
    ceiling = magnitudes.smallest(smallest + kept) if smallest + kept < elements else NO_CEILING
    return operands.completed(index, Sparsification(floor=floor, ceiling=ceiling), rescale)
