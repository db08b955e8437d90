"""The memory table of --dry-run: what a search takes of each device and of the host, and what is free there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merging.sizes import shown_size
from search.counts import counted
from search.memory_demand import UNKNOWN
from search.memory_plan import MemoryPlan
from search.parent_tiers import told_tiers
from search.views.table import plain_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table


def memory_table(plan: MemoryPlan) -> Table:
    """Return a line per part of the plan, and a column per device and for the host; cards that are alike share one."""
    sizes = [{part.what: part.bytes for part in place.parts} for place in plan.places]
    lines = list(dict.fromkeys(what for own in sizes for what in own))
    columns: list[tuple[list[str], list[str]]] = []
    for place, own in zip(plan.places, sizes, strict=True):
        cells = [_shown(own[what]) if own.get(what) else "" for what in lines]
        cells += [_shown(place.planned), _shown(place.memory.free)]
        if columns and columns[-1][1] == cells:
            columns[-1][0].append(place.memory.name)
        else:
            columns.append(([place.memory.name], cells))
    names = [names[0] + (f"-{names[-1].rpartition(':')[2]}" if len(names) > 1 else "") for names, _ in columns]
    table = plain_table("memory, in GB", *names, numeric=names)
    for index, what in enumerate((*lines, "in all", "free now")):
        table.add_row(what, *(cells[index] for _, cells in columns), style="bold" if what == "in all" else None)
    return table


def memory_lines(plan: MemoryPlan, tiers: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield what the table does not tell, in sentences, given the bytes of each parent in each memory."""
    if plan.refusal:
        yield f"The search has no room here: {plan.refusal}"
        return
    if plan.rows:
        yield f"{counted(plan.rows, 'problem is', 'problems are')} decoded at once."
    yield f"Parents: {told_tiers(tiers)}."
    if plan.from_host:
        yield f"{shown_size(plan.from_host)} of the parents are copied from the host's memory for every candidate."
    yield from plan.notes


def _shown(size: int) -> str:
    return "unknown" if size >= UNKNOWN else f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"
