"""Findings about the machine: memory plans and disks that have no room, and layers that the sandbox lacks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from evaluation.generation.room import Room
from evaluation.sandbox.errors import ConfinementError
from evaluation.sandbox.isolation import Isolation, SandboxLayer
from evaluation.sandbox.pool import SandboxPool
from merging.residency.budget import Budget
from search import SearchConfig
from search.memory_demand import UNKNOWN, Memory
from search.memory_plan import FREE, PARENTS, TABLES, MemoryPart, MemoryPlan, PlacePlan
from search.preflight.machine_findings import disk_findings, memory_findings, results_bytes, sandbox
from search.preflight.subject import Subject
from search.progress import Progress
from tests.merging.disks import small_disk
from tests.search.family import Family

CARD = PlacePlan(Memory("cuda:0", 80 * 10**9, 79 * 10**9), (MemoryPart(FREE, 10**9), MemoryPart(PARENTS, 20 * 10**9)))
HOST = PlacePlan(Memory("host", UNKNOWN, UNKNOWN), (MemoryPart(PARENTS, 5 * 10**9), MemoryPart(TABLES, 10**9)))

TIERS = {"a": {"cuda:0": 13 * 10**9}, "b": {"cuda:0": 4 * 10**9, "files": 9 * 10**9}}


def plan(*notes: str, refusal: str = "") -> MemoryPlan:
    return MemoryPlan((CARD, HOST), (Budget(0, 0),), 82, Room(), "model", 0, 2 * 10**9, notes, refusal)


def test_memory_is_told_by_place_and_tier() -> None:
    note, ok = memory_findings(plan("2.0 GB of the parents are not kept in memory"), TIERS)
    assert (note.level, note.detail) == ("note", "2.0 GB of the parents are not kept in memory")
    assert ok.detail == (
        "cuda:0: 21.0 GB of 79.0 GB free, host: 6.0 GB of unknown free; parents: a on cuda:0, b 4.0 GB on cuda:0 "
        "and 9.0 GB in files; 82 problems are decoded at once"
    )
    (problem,) = memory_findings(plan(refusal="host can give 90 KB"), {})
    assert (problem.level, problem.detail) == ("problem", "the search has no room here: host can give 90 KB")


def test_results_take_room_for_every_token_and_for_statistics(shared_family: Family) -> None:
    config = SearchConfig.load(shared_family.write("disk.yaml", evaluation=", samples: 2, temperature: 0.2"))
    with_statistics = results_bytes(config, 100, plan())
    assert with_statistics == results_bytes(config, 100, MemoryPlan((CARD,), (), 1, Room(), "model", 0, 0)) + 10**9
    assert results_bytes(config, 200, plan()) - with_statistics == 3 * 100 * 2 * 12 * 8


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk := tmp_path / "disk").mkdir()
    with ExitStack() as stack:
        stack.enter_context(small_disk(disk))
        stack.callback(monkeypatch.undo)
        monkeypatch.chdir(disk)
        problem, warning = disk_findings(disk / "results" / "night", 10**6, 10**6)
        assert (problem.level, warning.level) == ("problem", "warning")
        assert problem.detail.startswith(
            f"{disk}/results/night: its disk has 66 KB free, and the search may write 1 MB"
        )
        assert warning.detail == f"an export takes 1 MB, and the disk of {disk} has 66 KB free"
        assert [it.level for it in disk_findings(Path("night"), 1000, 1000)] == ["ok"]


def test_a_disk_without_room_for_all_that_could_be_written_is_a_warning(tmp_path: Path) -> None:
    warning, also = disk_findings(tmp_path / "night", 10**18, 10**18)
    assert [warning.level, also.level] == ["warning", "warning"]
    assert warning.remedy == "make room, or give a folder on another disk with --out"
    warning, ok = disk_findings(tmp_path / "night", 10**18, 1000)
    assert (warning.level, ok.level) == ("warning", "ok")
    assert ok.detail.endswith("free for an export of 1 KB")
    assert "results" not in ok.detail


@pytest.mark.parametrize("missing", ["bubblewrap", "seccomp"])
def test_a_layer_that_is_missing_is_told_with_its_remedy(
    shared_family: Family, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("two processes", "rlimits", "no-new-privs", "seccomp", "landlock", "bubblewrap")
    isolation = Isolation(tuple(SandboxLayer(name, name != missing) for name in names), refused=("opens a socket",))

    def found(_: SandboxPool) -> Isolation:
        if isolation.shortfall:
            raise ConfinementError(isolation)
        return isolation

    monkeypatch.setattr(SandboxPool, "isolation", property(found))
    config = SearchConfig.load(shared_family.write("sandbox.yaml"))
    first = next(iter(sandbox(Subject(config, Path("out"), Progress()))))
    assert first.level == ("problem" if missing == "seccomp" else "note")
    assert missing in first.detail
    assert ("apt-get install bubblewrap" if missing == "bubblewrap" else "CONFIG_SECCOMP_FILTER") in first.sentence
