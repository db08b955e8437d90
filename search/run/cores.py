"""Cores: the share of its machine's cores that a worker takes.

Guarantees: workers of one results folder on one machine have equal shares, however many come and go, since each asks
again before each job. What the user has set stays: `evaluation.workers`, and `OMP_NUM_THREADS` in the environment.
"""

from __future__ import annotations

import os

import torch

from evaluation import SandboxPool
from evaluation.sandbox.pool import usable_cores
from search.counts import counted
from search.run.neighbours import share_of


class Cores:
    """The share of a worker: threads of torch, and programs that are checked at once.

    Args:
        sandbox: the worker's sandbox.
        programs: `evaluation.workers`, if it is set.
    """

    def __init__(self, sandbox: SandboxPool, programs: int | None) -> None:
        self._sandbox = sandbox
        self._programs = programs
        self._threads = torch.get_num_threads()
        self._others: int | None = None  # nothing is shared yet; the sandbox may be from when there were others

    def share(self, others: int) -> str:
        """Take an equal share beside that many other workers; return a sentence if their number has changed, or ""."""
        if others == self._others:
            return ""
        before, self._others = self._others or 0, others
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(share_of(self._threads, others))
        programs = self._programs or share_of(usable_cores(), others)
        if self._programs is None:
            self._sandbox.resize(programs)
        if others == before:
            return ""
        threads = counted(torch.get_num_threads(), "thread")
        checked = counted(programs, "program")
        return f"workers on this machine: {others + 1}; this one computes with {threads} and checks {checked} at once"
