"""The pool: whose time it counts, that it gives a verdict whatever happens, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evaluation import Problem, SandboxPool, Verdict
from evaluation.sandbox import pool as pool_module
from evaluation.sandbox import zygote_pair
from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.gate import Gate
from tests.evaluation.hostile import CASES, PROMPT

pytestmark = pytest.mark.sandbox

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
HONEST = "    return a + b\n"


def busy(seconds: float) -> str:
    """Return a completion that takes this much time, however fast the processor is."""
    return f"    import time\n    while time.process_time() < {seconds}: pass\n    return a + b\n"


# Half of the time that these pools give.
BUSY = busy(0.15)


@contextlib.contextmanager
def crowded() -> Iterator[None]:
    """Keep the pools of this process on one core with hogs, each of a session, and so of a share, of its own."""
    core = {max(os.sched_getaffinity(0))}
    command = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(command, start_new_session=True) for _ in range(4)]
    try:
        for process in family_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process, core)
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.slow
def test_a_wall_clock_that_others_use_up_is_not_the_completions(adder: Problem) -> None:
    with SandboxPool(workers=1, timeout_seconds=0.3) as pool:
        assert pool.run(adder, HONEST).passed
        with crowded():
            assert pool.run(adder, BUSY) == Verdict("passed")


@pytest.mark.slow
def test_a_run_that_the_machine_starves_is_repeated_alone(adder: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = []

    class Counting(Gate):
        def alone(self) -> AbstractContextManager[None]:
            alone.append(1)
            return super().alone()

    monkeypatch.setattr(pool_module, "Gate", Counting)
    monkeypatch.setattr(zygote_pair, "_HARD_WALL_BUDGETS", 0.01)
    with SandboxPool(workers=2, timeout_seconds=0.8) as pool:
        assert pool.run(adder, HONEST).passed
        with crowded():
            # Among six processes on a core neither has three quarters of it.
            assert [verdict for _, verdict in pool.check([(adder, busy(0.6))] * 2)] == [Verdict("passed")] * 2
    assert len(alone) == 2


@pytest.mark.slow
def test_a_run_that_is_starved_alone_too_is_never_failed(adder: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_pair, "_HARD_WALL_BUDGETS", 0.01)
    monkeypatch.setattr(zygote_pair, "_HARD_WALL_BUDGETS_ALONE", 0.01)
    with SandboxPool(workers=1, timeout_seconds=0.3) as pool:
        assert pool.run(adder, HONEST).passed
        with crowded():
            verdict = pool.run(adder, BUSY)
    assert verdict == Verdict("harness_error", "undecided after 3 attempts: the machine gave the run no time")


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"timeout_seconds": 0}, {"timeout_seconds": 1e9}])
def test_a_pool_that_makes_no_sense_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(SandboxError, match=next(iter(arguments))):
        SandboxPool(**arguments)


def test_a_pool_checks_as_many_programs_at_once_as_it_was_last_told(
    adder: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, inside, most = zygote_pair.ZygotePair.check, Counter[str](), []
    lock, together = threading.Lock(), threading.Barrier(3, timeout=PATIENCE_SECONDS)

    def noted(*arguments: Any) -> Verdict:
        with lock:
            inside["now"] += 1
            most.append(inside["now"])
        if size == 3:
            together.wait()  # nobody comes through before three are here
        try:
            return check(*arguments)
        finally:
            with lock:
                inside["now"] -= 1

    monkeypatch.setattr(zygote_pair.ZygotePair, "check", noted)
    with SandboxPool(workers=2) as pool:
        for size in (2, 1, 3, 1):
            pool.resize(size)
            assert all(verdict.passed for _, verdict in pool.check([(adder, HONEST)] * 6))
            assert max(most) <= size
            most.clear()


def test_a_further_worker_that_does_not_start_at_once_is_started_again(
    adder: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, has_failed = zygote_pair.ZygotePair.start, threading.Event()

    def failing_once(pair: Any) -> Any:
        if has_failed.is_set():
            return start(pair)
        has_failed.set()
        raise OSError("Resource temporarily unavailable")

    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, HONEST).passed
        monkeypatch.setattr(zygote_pair.ZygotePair, "start", failing_once)
        pool.resize(2)
        assert has_failed.wait(PATIENCE_SECONDS)
        for _ in range(2):
            assert all(verdict.passed for _, verdict in pool.check([(adder, HONEST)] * 4))


def test_a_closed_pool_says_so(adder: Problem) -> None:
    pool = SandboxPool(workers=1)
    pool.close()
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        pool.run(adder, HONEST)
    with pytest.raises(SandboxError, match="closed"):
        pool.resize(2)


@pytest.mark.slow
def test_a_pool_closes_at_once_whatever_runs(adder: Problem) -> None:
    seconds = 60
    pool = SandboxPool(workers=2, timeout_seconds=seconds)
    batch = pool.batch()
    for _ in range(4):
        batch.submit(adder, "    while True: pass\n")
    assert pool.isolation.active
    time.sleep(0.3)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < seconds  # which is what each would take
    with pytest.raises(SandboxError, match="closed"):
        list(batch.rest())


@pytest.mark.slow
def test_a_pool_that_is_closed_while_it_starts_leaves_nothing() -> None:
    before = set(family_of(os.getpid()))
    for _ in range(5):
        SandboxPool(workers=2).close()
    eventually(lambda: set(family_of(os.getpid())), lambda found: found <= before)


def test_an_error_in_the_sandboxs_own_code_is_a_verdict_and_no_hang(
    adder: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    class Unprintable(str):
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no")

    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, Unprintable()) == Verdict("harness_error", "RuntimeError: no")
        assert pool.run(adder, HONEST).passed
    assert "toy/add: the sandbox itself failed" in caplog.text


def test_a_pool_outlives_the_thread_that_made_it(adder: Problem) -> None:
    made: list[SandboxPool] = []
    thread = threading.Thread(target=lambda: made.append(SandboxPool(workers=1)))
    thread.start()
    thread.join()
    with made[0] as pool:
        assert pool.run(adder, HONEST).passed


def test_a_pool_whose_processes_are_killed_recovers(adder: Problem) -> None:
    others = set(family_of(os.getpid()))  # pools of other tests
    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, HONEST).passed
        for process in set(family_of(os.getpid())) - others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may have gone with its parent
                if "sandbox" in Path(f"/proc/{process}/cmdline").read_bytes().decode():
                    os.kill(process, signal.SIGKILL)
        assert pool.run(adder, HONEST).passed


def test_a_zygote_ignores_sigterm(adder: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no bubblewrap, whose own processes would die
    others = set(children_of(os.getpid()))  # pools of other tests
    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, HONEST).passed
        zygotes = set(children_of(os.getpid())) - others
        assert len(zygotes) == 2
        for zygote in zygotes:
            os.kill(zygote, signal.SIGTERM)
        assert pool.run(adder, HONEST).passed
        assert set(children_of(os.getpid())) - others == zygotes


def children_of(parent: int) -> list[int]:
    """Return the children of all threads of a process."""
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may be gone by now
        for task in Path(f"/proc/{parent}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    return children


def family_of(parent: int) -> list[int]:
    """Return the children of all threads of a process, and theirs."""
    children = children_of(parent)
    return children + [grandchild for child in children for grandchild in family_of(child)]


@pytest.mark.parametrize("path", ["/nowhere", os.environ["PATH"]], ids=["no bubblewrap", "bubblewrap"])
def test_nothing_is_left_of_a_pool_whose_process_was_killed(adder: Problem, path: str, tmp_path: Path) -> None:
    program = "    open('left', 'w').write('x')\n    while True: pass\n"
    endless = replace(adder, timeout_seconds=PATIENCE_SECONDS)  # no run ends before all processes are there
    code = f"""
from evaluation import Problem, SandboxPool
pool = SandboxPool(workers=2)
print(pool.isolation, flush=True)
list(pool.check([({endless!r}, {program!r})] * 2))
"""
    environment = os.environ | {"PATH": path, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    in_bubblewrap = "missing" not in process.stdout.readline()
    # Each of the four zygotes has a run and the next one, and in bubblewrap a monitor and an init of its own.
    all_of_them = 20 if in_bubblewrap else 12
    family = eventually(lambda: family_of(process.pid), lambda found: len(found) == all_of_them)
    assert len(list(tmp_path.iterdir())) == (0 if in_bubblewrap else 2)
    process.kill()
    process.communicate()
    eventually(lambda: left(family, tmp_path), lambda found: not found)


def eventually(look: Callable[[], T], is_right: Callable[[T], bool]) -> T:
    """Return what is seen once it is right."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_right(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def left(family: list[int], folder: Path) -> list[object]:
    """Return which processes of a family live, and what is in a folder."""
    return [pid for pid in family if not is_zombie(pid)] + list(folder.iterdir())


@pytest.mark.slow
def test_a_pool_is_the_same_after_many_hostile_runs_as_after_some() -> None:
    chosen = [case for name, case in CASES.items() if not name.startswith(("hangs", "explodes"))]
    programs = [(Problem("toy/add", PROMPT, "add", "", case.test), case.completion) for case in chosen]
    others = frozenset(family_of(os.getpid()))  # pools of other tests
    with SandboxPool(workers=1, timeout_seconds=0.5) as pool:
        # Each of the two zygotes has the next run, and in bubblewrap a monitor and an init of its own.
        idle = 4 if "missing" in str(pool.isolation) else 8

        def used_afterwards(descriptors: float, memory: float) -> tuple[int, int, int]:
            assert all(verdict.status != "harness_error" for _, verdict in pool.check(programs))
            assert pool.run(programs[0][0], HONEST).passed
            return eventually(
                lambda: usage(others), lambda found: found[0] == idle and found[1] <= descriptors and found[2] < memory
            )

        _, descriptors, memory = used_afterwards(math.inf, math.inf)
        used_afterwards(descriptors, memory + (4 << 20))


def usage(others: Collection[int]) -> tuple[int, int, int]:
    """Return how many processes, except some, come of this one, and the descriptors and bytes that all have."""
    family = [pid for pid in family_of(os.getpid()) if pid not in others]
    descriptors = memory = 0
    for pid in (os.getpid(), *family):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may be gone by now
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 * (pid in family)
    return len(family), descriptors, memory


def is_zombie(pid: int) -> bool:
    """Whether a process is dead and only waits for its parent to look."""
    try:
        return state_of(pid) == "Z"
    except OSError:
        return True


def state_of(pid: int) -> str:
    """Return the state of a process, such as S for one that sleeps."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_batch_that_is_left_early_stops_what_waits(adder: Problem) -> None:
    slow = "    import time\n    time.sleep(0.2)\n    return a + b\n"
    count = 1000
    with SandboxPool(workers=1) as pool:
        programs = iter([(adder, slow)] * count)
        for _, verdict in pool.check(programs):
            assert verdict.passed
            break
        started = time.monotonic()
        assert pool.run(adder, HONEST).passed
        assert time.monotonic() - started < 0.1 * count  # they would sleep for twice as long
