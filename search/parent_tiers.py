"""Where a memory plan keeps each parent, and how that is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from merging.sizes import shown_size
from search.memory_demand import UNKNOWN
from search.memory_plan import PARENTS, MemoryPlan, PlacePlan

_CARDS, _FILES = "the cards", "files"


def parent_tiers(plan: MemoryPlan, tensors: Iterable[tuple[str, int, int]]) -> dict[str, dict[str, int]]:
    """Return the bytes of each parent in each memory, by the names of the parent and the memory.

    Several devices go by "the cards", and what no memory keeps by "files".

    Args:
        plan: a plan that can work.
        tensors: the parent, the device's index and the bytes of each tensor, in the order in which they are read.
    """
    *devices, host = plan.places
    card = devices[0].memory.name if len(devices) == 1 else _CARDS
    left = [_parents_in(place) for place in devices]
    # If nothing is read from files, the host takes all that is not on a device: the ends of slabs have room for the
    # tensors that the plan counts on a device, but that do not fit there whole.
    left_on_host = _parents_in(host) if plan.from_files else UNKNOWN
    found: dict[str, dict[str, int]] = {}
    for parent, index, size in tensors:
        if devices and size <= left[index]:
            left[index] -= size
            where = card
        elif size <= left_on_host:
            left_on_host -= size
            where = host.memory.name
        else:
            where = _FILES
        own = found.setdefault(parent, {})
        own[where] = own.get(where, 0) + size
    return found


def told_tiers(tiers: Mapping[str, Mapping[str, int]]) -> str:
    """Return where each parent is, in words."""
    if len(everywhere := {place for places in tiers.values() for place in places}) == 1:
        return f"all {_told_place(*everywhere)}"
    return ", ".join(f"{parent} {_told_places(places)}" for parent, places in tiers.items())


def _told_places(places: Mapping[str, int]) -> str:
    if len(places) == 1:
        return _told_place(*places)
    return " and ".join(f"{shown_size(size)} {_told_place(place)}" for place, size in places.items())


def _told_place(place: str) -> str:
    return f"{'in' if place == _FILES else 'on'} {place}"


def _parents_in(place: PlacePlan) -> int:
    return sum(part.bytes for part in place.parts if part.what == PARENTS)
