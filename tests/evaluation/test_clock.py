"""The time of a check: what counts, and what becomes of a check that has had it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from evaluation.sandbox.clock import NOWHERE, Clock, judge_time, measures_delay, number_in, open_processes
from evaluation.sandbox.control_messages import Ended, Judged, Run
from evaluation.sandbox.gate import Gate
from evaluation.sandbox.limits import cpu_limit_seconds
from evaluation.sandbox.zygote_pair import _verdict_on_end
from tests.evaluation.test_pool import eventually, state_of

PROCESSES = open_processes()


def test_the_clock_counts_all_that_ran() -> None:
    # Two that talk all the time wake each other, and each then waits while the other goes on for a moment.
    echo = "import os\nwhile data := os.read(0, 1): os.write(1, data)\n"
    with subprocess.Popen([sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        it.stdin.write(b"x")
        it.stdout.read(1)  # started
        clock, began, before = Clock(PROCESSES, (it.pid, os.getpid())), time.thread_time(), ran_seconds(it.pid)
        for _ in range(10_000):
            it.stdin.write(b"x")
            it.stdout.read(1)
        ran = time.thread_time() - began + ran_seconds(it.pid) - before
        assert clock.effective_seconds >= 0.9 * ran
        it.stdin.close()


def ran_seconds(process: int) -> float:
    """Return the processor time of a process."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


# Each says when it is at it.
SPIN = "print(flush=True)\nwhile True: pass"
SPIN_ON_A_THREAD = """
import threading
def spin():
    print(flush=True)
    while True: pass
threading.Thread(target=spin).start()
"""
SLEEP = "import signal\nprint(flush=True)\nsignal.pause()"


@pytest.mark.parametrize(("program", "counts"), [(SPIN, False), (SPIN_ON_A_THREAD, False), (SLEEP, True)])
def test_waiting_for_a_core_does_not_count_on_any_thread(program: str, counts: bool) -> None:
    # All on one core: each of the spinners has a third of it.
    core = {min(os.sched_getaffinity(0))}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as it:
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            for process in (it, *hogs):
                os.sched_setaffinity(process.pid, core)
            assert it.stdout is not None
            it.stdout.readline()
            for thread in Path(f"/proc/{it.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), core)
            if counts:  # to fall asleep, it waits for the core once
                eventually(lambda: state_of(it.pid), lambda state: state == "S")
            clock = Clock(PROCESSES, (it.pid,))
            time.sleep(0.5)
            # A spinner waits for the core two thirds of the time.
            assert (clock.effective_seconds > 0.6 * clock.wall_seconds) == counts
        finally:
            for process in (it, *hogs):
                process.kill()
            for hog in hogs:
                hog.wait()


def test_without_proc_it_is_the_wall_clock() -> None:
    assert number_in(NOWHERE) == os.getpid()
    assert measures_delay(PROCESSES)
    assert not measures_delay(NOWHERE)
    clock = Clock(NOWHERE, (os.getpid(),))
    time.sleep(0.05)
    assert 0.05 <= clock.effective_seconds <= clock.wall_seconds


class _Given(Clock):
    """A clock that stands."""

    def __init__(self, wall: float, effective: float) -> None:
        self._given = wall, effective

    @property
    def wall_seconds(self) -> float:
        return self._given[0]

    @property
    def effective_seconds(self) -> float:
        return self._given[1]


@pytest.mark.parametrize(
    ("wall", "effective", "judged"),
    [
        (1.0, 0.5, 2.0),  # no more than so many seconds can be over in that time
        (5.0, 2.5, 0.5),
        (5.0, 3.0, Judged("timeout", "timed out")),
        (40.0, 3.1, Judged("timeout", "timed out")),
        (40.0, 2.9, Judged("starved", "the machine gave the run no time")),
    ],
)
def test_a_check_is_over_by_its_own_time_and_starved_by_the_walls(
    wall: float, effective: float, judged: object
) -> None:
    assert judge_time(_Given(wall, effective), Run("", "", "f", 3.0, 30.0)) == judged


@pytest.mark.slow
def test_a_run_that_uses_up_its_processor_time_has_timed_out() -> None:
    spin = "from evaluation.sandbox.limits import restrict\nrestrict(0.5)\nwhile True: pass\n"
    ended = subprocess.run([sys.executable, "-c", spin], check=False).returncode
    assert ended == -signal.SIGXCPU
    lost, limit = Judged("lost", "it has gone"), cpu_limit_seconds(0.5)
    for how, status in ((ended, "timeout"), (-signal.SIGKILL, "killed"), (3, "failed"), (0, "failed")):
        assert _verdict_on_end(lost, Ended(how, 1.0), limit).status == status
    killed = Ended(-signal.SIGKILL, 2.5)
    assert _verdict_on_end(lost, killed, limit).status == "timeout"
    assert _verdict_on_end(killed, Ended(0, 0.0), limit).status == "timeout"


def test_who_is_alone_in_a_gate_is_alone() -> None:
    gate, inside, alone_with = Gate(), [0], []
    lock = threading.Lock()

    def pass_through(alone: bool) -> None:
        with gate.alone() if alone else gate.together():
            with lock:
                inside[0] += 1
            time.sleep(0.01)
            if alone:
                alone_with.append(inside[0])
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=pass_through, args=(number % 4 == 0,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone_with == [1] * 4
    with gate.together(), gate.together():
        pass  # those who are inside together do not wait
