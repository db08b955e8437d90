"""Free memory is asked for in one place, and a control group's limit counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search import free_memory
from search.free_memory import machine_of
from search.memory_demand import UNKNOWN

ROOT = Path(__file__).parents[2]
ASKING = ("mem_get_info", "MemAvailable", "virtual_memory", "get_balanced_memory")


@pytest.mark.parametrize(
    ("limit", "used", "cached", "left"),
    [("5000", 3000, 0, 2000), ("5000", 4900, 1000, 1100), ("100", 3000, 0, 0), ("max", 3000, 0, None)],
)
def test_a_control_group_limits_what_is_free(
    limit: str, used: int, cached: int, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"memory.max": limit, "memory.current": str(used), "memory.stat": f"inactive_file {cached}"}
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(free_memory, "_GROUPS", [("", tmp_path, "memory.max", "memory.current", "inactive_file")])
    host = machine_of([torch.device("cpu")]).host
    if left is None:
        assert 5000 < host.free <= host.total < 1 << 50
    else:
        assert (host.free, host.total) == (left, int(limit))


@pytest.mark.parametrize(
    ("version", "lines"),
    [(2, "0::/user.slice/job.scope\n"), (1, "0::/\n5:devices:/elsewhere\n4:cpu,memory:/user.slice/job.scope\n")],
)
@pytest.mark.parametrize(("outer", "inner", "left"), [(9000, 5000, 2000), (4000, 5000, 1000)])
def test_the_groups_around_a_process_limit_it(
    version: int, lines: str, outer: int, inner: int, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a job of Slurm, or a scope of systemd with MemoryMax; the process's own group has the limit."""
    groups = free_memory._GROUPS[2 - version]
    root = tmp_path / "root"
    for folder, limit in ((root / "user.slice", outer), (root / "user.slice/job.scope", inner)):
        folder.mkdir(parents=True)
        for name, text in zip(groups[2:], (limit, 3000), strict=False):
            (folder / name).write_text(f"{text}\n")
        (folder / "memory.stat").write_text("anon 3000\n")
    own = tmp_path / "cgroup"
    own.write_text(lines)
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", own)
    monkeypatch.setattr(free_memory, "_GROUPS", [(groups[0], root, *groups[2:])])
    host = machine_of([torch.device("cpu")]).host
    assert (host.free, host.total) == (left, min(outer, inner))


def test_a_system_that_tells_nothing_is_unlimited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(free_memory, "_GROUPS", [])
    machine = machine_of([torch.device("cpu"), torch.device("cpu:0")], workers=3)
    assert (machine.host.free, machine.host.total, machine.devices, machine.workers) == (UNKNOWN, UNKNOWN, (), 3)


def test_only_the_planner_asks_how_much_is_free() -> None:
    importing, asking = [], []
    for file in [path for package in ("merging", "evaluation", "search") for path in (ROOT / package).rglob("*.py")]:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        if any(word in text for word in ASKING):
            asking.append(name)
        if "search.free_memory" in text:
            importing.append(name)
    assert importing == ["search/planned_memory.py"]
    # accelerate balances a model over GPUs by itself.
    assert sorted(asking) == ["merging/residency/placement.py", "search/free_memory.py"]
