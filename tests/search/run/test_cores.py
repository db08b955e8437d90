"""Workers of one machine share its cores for as long as they are there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evaluation import Problem, SandboxPool
from evaluation.sandbox.pool import usable_cores
from search import SearchConfig, run_search
from search.results import ResultsFolder
from search.run.cores import Cores
from search.run.trial import Bench
from search.study.store import Workplace
from tests.search.family import Family
from tests.search.processes import running
from tests.search.told import Phases, Stopped

HONEST = "    return a + b\n"
ADD = Problem("add", "def add(a, b):\n", "add", HONEST, "def check(add):\n    assert add(1, 2) == 3\n")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let torch use eight threads, as if nobody had said how many."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield 8
    torch.set_num_threads(before)


def test_a_share_grows_and_shrinks_with_the_number_of_workers(threads: int) -> None:
    with SandboxPool(workers=1) as pool:
        cores, taken = Cores(pool, None), []
        for others in (0, 0, 1, 1, 3, 40, 0):
            told = cores.share(others)
            taken.append((torch.get_num_threads(), bool(told)))
            assert all(verdict.passed for _, verdict in pool.check([(ADD, HONEST)] * 5))
        assert told == "workers on this machine: 1; this one computes with 8 threads and checks 4 programs at once"
    assert taken == [(8, False), (8, False), (4, True), (4, False), (2, True), (1, True), (threads, True)]


def test_cores_that_a_scheduler_keeps_from_a_process_do_not_count() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from evaluation.sandbox.pool import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_worker_whose_neighbour_left_before_its_first_job_takes_all_cores(threads: int) -> None:
    before = set(threading.enumerate())
    with SandboxPool(workers=2) as pool:
        assert Cores(pool, None).share(0) == ""
        assert sum(thread.name.startswith("sandbox-") for thread in set(threading.enumerate()) - before) == 4
    assert torch.get_num_threads() == threads


def test_what_the_user_has_set_stays(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    with SandboxPool(workers=2) as pool:
        told = Cores(pool, 2).share(7)
    assert told == "workers on this machine: 8; this one computes with 8 threads and checks 2 programs at once"
    assert torch.get_num_threads() == threads


def test_whoever_runs_a_search_in_python_has_their_threads_back(
    one_trial: tuple[SearchConfig, Path], threads: int
) -> None:
    config, out = one_trial
    phases = Phases()
    with ResultsFolder.open(out).working() as store, store.sign_in() as other:
        store.describe_worker(other, Workplace(platform.node(), {"cpu": ""}), (), ())
        run_search(config, out, trials=2, progress=phases)
    assert any("computes with 4 threads and checks 1 program at once" in line for line in phases.said)
    assert torch.get_num_threads() == threads


class StoppedWhileSharing(Phases):
    """Ends the worker when it is told of its share."""

    def say(self, message: str) -> None:
        if message.startswith("workers on this machine"):
            raise Stopped


def test_a_worker_that_is_stopped_while_it_shares_its_cores_leaves_its_job(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    with ResultsFolder.open(out).working() as store, store.sign_in() as other:
        store.describe_worker(other, Workplace(platform.node(), {"cpu": ""}), (), ())
        with pytest.raises(Stopped):
            run_search(config, out, trials=2, progress=StoppedWhileSharing())
        states = {record.key: record.search.state for record in store.changed()[0]}
    assert states["trial-1"] == "waiting"


@pytest.mark.slow
def test_a_worker_gives_up_cores_to_one_that_comes_and_gets_them_back(
    one_trial: tuple[SearchConfig, Path], shared_family: Family, tmp_path: Path
) -> None:
    config = shared_family.write("cores.yaml")
    config.write_text(config.read_text().replace("workers: 1, ", ""))
    words = ["run", config, "--out", one_trial[1], "--trials", "6"]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "one", *words, held_at=(Bench.score, 0)) as one:
        one.until_held()
        with running(tmp_path / "other", *words, "--device", "cpu", held_at=(Bench.score, 0)) as other:
            other.until_held()
            one.release()
            one.until_told("workers on this machine: 2")
            other.release()
            assert other.wait() == one.wait() == 0, (one.errors, other.errors)
    cores = usable_cores()
    half = max(1, cores // 2)
    for command in (one, other):
        shares = re.findall(r"workers on this machine: (\d); .* checks (\d+) program", command.errors)
        assert shares[0] == ("2", str(half))
        assert shares[1:] in ([], [("1", str(cores))])  # whether anything is left to do when the other has ended
    assert "share its memory" not in one.errors + other.errors  # a CPU may have many workers
