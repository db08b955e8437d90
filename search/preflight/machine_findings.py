"""Findings about the machine: sandbox, device, backend, memory and disks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

from evaluation.sandbox.errors import ConfinementError
from evaluation.sandbox.isolation import remedy
from evaluation.sandbox.pool import SandboxPool
from merging import Merger, Recipe
from merging.caches import cache_folder
from merging.sizes import shown_size
from search.counts import counted
from search.memory_demand import UNKNOWN
from search.memory_plan import TABLES, MemoryPlan
from search.parent_tiers import told_tiers
from search.preflight.finding import Finding
from search.results import existing
from search.space.config import SearchConfig

if TYPE_CHECKING:
    from search.preflight.subject import Subject

# The bytes that a token of a completion takes on disk, as text and as a draft; and those of all else in the folder.
_TOKEN_BYTES, _OTHER_BYTES = 8, 20_000_000


def sandbox(_: Subject) -> Iterator[Finding]:
    """Start a sandbox, let programs try to break out, and yield which layers it lacks."""
    with SandboxPool(workers=1) as pool:
        try:
            isolation = pool.isolation
        except ConfinementError as error:
            yield Finding("problem", "sandbox", str(error))
            return
    for layer in isolation.layers:
        if not layer.active:
            yield Finding("note", "sandbox", f"works without {layer}", remedy(layer.name))
    yield Finding(
        "ok", "sandbox", f"{', '.join(isolation.active)}: {len(isolation.refused)} ways to break out are refused"
    )


def device(subject: Subject) -> Iterator[Finding]:
    """Yield what merges, and where models are."""
    where = subject.device or f"device_map: {subject.config.merging.device_map}"
    yield Finding("ok", "device", str(where))


def backend(subject: Subject) -> Iterator[Finding]:
    """Yield what generates."""
    subject.config.require_backend()
    yield Finding("ok", "backend", subject.config.evaluation.backend)


def memory(subject: Subject) -> Iterator[Finding]:
    """Yield whether the search has room in memory."""
    yield from memory_findings(subject.memory, {} if subject.memory.refusal else subject.tiers)


def memory_findings(plan: MemoryPlan, tiers: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Yield the findings on a memory plan, given the bytes of each parent in each memory."""
    if plan.refusal:
        yield Finding("problem", "memory", f"the search has no room here: {plan.refusal}")
        return
    yield from (Finding("note", "memory", note) for note in plan.notes)
    places = [
        f"{place.memory.name}: {shown_size(place.planned)} of {_shown(place.memory.free)} free"
        for place in plan.places
        if place.planned
    ]
    yield Finding(
        "ok",
        "memory",
        f"{', '.join(places)}; parents: {told_tiers(tiers)}; "
        f"{counted(plan.rows, 'problem is', 'problems are')} decoded at once",
    )


def _shown(size: int) -> str:
    return "unknown" if size >= UNKNOWN else shown_size(size)


def disks(subject: Subject) -> Iterator[Finding]:
    """Yield whether the results folder, the cache and an export have room on their disks."""
    wanted = results_bytes(subject.config, len(subject.problems), subject.memory)
    yield from disk_findings(subject.out, wanted, export_bytes(subject.merger, subject.candidates))


def results_bytes(config: SearchConfig, problems: int, plan: MemoryPlan) -> int:
    """Return the most that a search may write into its results folder."""
    evaluation = config.evaluation
    tokens = config.search.trials * problems * evaluation.samples * evaluation.max_new_tokens
    tables = sum(part.bytes for place in plan.places for part in place.parts if part.what == TABLES)
    return tokens * _TOKEN_BYTES + tables + _OTHER_BYTES


def export_bytes(merger: Merger, recipes: Sequence[Recipe]) -> int:
    """Return what the weights of the largest of some merges take on disk."""
    return max(sum(entry.nbytes for entry in merger.plan(recipe).entries) for recipe in recipes)


def disk_findings(out: Path, wanted: int, export: int) -> Iterator[Finding]:
    """Yield whether disks have room.

    Args:
        out: the results folder.
        wanted: the most that the search writes into it, in bytes.
        export: the bytes of an export, which the next commands write into the current folder.
    """
    room: list[str] = []
    free = disk_usage(existing(out)).free
    if free >= wanted:
        room.append(f"{shown_size(free)} free for the results, of which the search may write {shown_size(wanted)}")
    else:
        yield Finding(
            "warning" if free >= _OTHER_BYTES else "problem",
            "disk",
            f"{out}: its disk has {shown_size(free)} free, and the search may write {shown_size(wanted)}",
            "make room, or give a folder on another disk with --out",
        )
    left = disk_usage(Path.cwd()).free
    if left >= export:
        room.append(f"{shown_size(left)} free for an export of {shown_size(export)}")
    else:
        yield Finding(
            "warning",
            "disk",
            f"an export takes {shown_size(export)}, and the disk of {Path.cwd()} has {shown_size(left)} free",
            "make room, or export to another disk",
        )
    if cache_folder("memo") is None:
        yield Finding(
            "note",
            "disk",
            "the cache (~/.cache, or XDG_CACHE_HOME) cannot be written: each worker compiles and hashes again",
        )
    if room:
        yield Finding("ok", "disk", "; ".join(room))
