"""Verdicts that outlive a judge: the store that keeps them, and the keys that find them.

Guarantees: a verdict is found only for the same program, tests, time limit, interpreter and layers of the sandbox, so
that judges of several processes may share a store, and a store may be copied.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Protocol

from evaluation.problems import Problem
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Verdict

_RULES = 1  # the version of our rules: increase it with every change that may change a verdict


class VerdictStore(Protocol):
    """Keeps verdicts."""

    def verdict(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key, or None."""

    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep verdicts by their keys."""


def verdict_key(problem: Problem, completion: str, timeout_seconds: float | None, isolation: Isolation) -> bytes:
    """Return the key of a check (32 bytes), made from what is checked and how.

    Args:
        problem: the problem.
        completion: the text after the problem's prompt.
        timeout_seconds: the time limit per check; None for the problem's own.
        isolation: the layers that programs run under.
    """
    # The problem's own solution decides whether tests that could not be executed are the completion's fault.
    what = [problem.prompt, completion, problem.test, problem.entry_point, problem.canonical_solution]
    content = json.dumps([_surroundings(isolation), timeout_seconds or problem.timeout_seconds, what])
    return hashlib.sha256(content.encode()).digest()


@cache
def _surroundings(isolation: Isolation) -> Sequence[object]:
    layers = [layer.name for layer in isolation.layers if layer.active]
    return [_RULES, platform.python_version(), version("numpy"), *layers]
