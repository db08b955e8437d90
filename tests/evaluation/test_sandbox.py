"""The sandbox: what honest programs may do in it, and what is said of those that fail."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

from evaluation import Problem, SandboxPool
from evaluation.sandbox.scratch import empty, is_full


def test_a_run_leaves_nothing_for_the_next(adder: Problem, sandbox: SandboxPool) -> None:
    leave = (
        "    open('left', 'w').write('x')\n    import math, json\n    math.sqrt = json.dumps = 0\n    return a + b\n"
    )
    look = "    import os, math\n    assert os.listdir('.') == [] and math.sqrt(4) == 2\n    return a + b\n"
    sandbox.run(adder, leave)
    assert sandbox.run(adder, look).passed


def test_threads_and_output_are_allowed(adder: Problem, sandbox: SandboxPool) -> None:
    threads = """
import threading
box = []
workers = [threading.Thread(target=box.append, args=(i,)) for i in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print("x" * 10_000_000)
return a + b
"""
    assert sandbox.run(adder, textwrap.indent(threads, "    ")).passed


def test_the_detail_of_a_failure_is_one_short_line(adder: Problem, sandbox: SandboxPool) -> None:
    verdict = sandbox.run(adder, "    raise ValueError('no\\nno\\x1b[31m' * 1000)\n")
    assert verdict.status == "failed"
    assert verdict.detail.startswith("ValueError: no no")
    assert verdict.detail.isprintable()
    assert len(verdict.detail) <= 300


def test_what_a_function_does_to_its_arguments_is_seen_by_the_tests(sandbox: SandboxPool) -> None:
    test = "def check(candidate):\n    values = [3, 1, 2]\n    candidate(values)\n    assert values == [1, 2, 3]\n"
    problem = Problem("toy/sort", "def sort(values):\n", "sort", "", test)
    assert sandbox.run(problem, "    values.sort()\n").passed
    assert not sandbox.run(problem, "    return sorted(values)\n").passed


def test_an_error_that_the_tests_expect_arrives_as_its_builtin_type(sandbox: SandboxPool) -> None:
    test = """
def check(candidate):
    try:
        candidate(0)
    except ZeroDivisionError as error:
        assert "zero" in str(error)
    else:
        raise AssertionError
"""
    problem = Problem("toy/inverse", "def inverse(x):\n", "inverse", "", test)
    assert sandbox.run(problem, "    return 1 / x\n").passed
    assert not sandbox.run(problem, "    raise KeyError\n").passed


def test_files_that_come_and_go_while_they_are_counted_do_no_harm(tmp_path: Path) -> None:
    churn = "import os\nwhile True:\n for name in 'ab': open(name, 'w').close()\n for name in 'ab': os.unlink(name)\n"
    process = subprocess.Popen([sys.executable, "-c", churn], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert not is_full(tmp_path)
    finally:
        process.kill()
        process.wait()
    (tmp_path / "file").write_text("x" * 100)
    (tmp_path / "link").symlink_to("/")
    empty(tmp_path)
    assert list(tmp_path.iterdir()) == []
