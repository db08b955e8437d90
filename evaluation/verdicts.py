"""Verdicts that outlive a judge: what they are kept in, and the keys by which they are found again.

Guarantees: a verdict is found only for the same program, tests, time limit, interpreter and layers of the sandbox, so
that judges of several processes may share a store, and a store may be copied.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol

from evaluation.problems import Problem
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.verdict import Verdict

_RULES = 1  # the version of our rules: increase it with every change that may change a verdict


class VerdictStore(Protocol):
    """Where verdicts are kept."""

    def verdict(self, key: bytes) -> Verdict | None:
        """Return the verdict of a key, or None."""

    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep verdicts by their keys."""


class Keys:
    """Makes the keys: what was checked, and how.

    Args:
        timeout_seconds: per check; None for the problem's own.
        isolation: the layers that programs run under.
    """

    def __init__(self, timeout_seconds: float | None, isolation: Isolation) -> None:
        layers = [layer.name for layer in isolation.layers if layer.active]
        self._timeout_seconds = timeout_seconds
        self._how = [_RULES, platform.python_version(), version("numpy"), *layers]

    def key(self, problem: Problem, completion: str) -> bytes:
        """Return 32 bytes."""
        # The problem's own solution decides whether tests that could not be executed are the completion's fault.
        what = [problem.prompt, completion, problem.test, problem.entry_point, problem.canonical_solution]
        return hashlib.sha256(
            json.dumps([self._how, self._timeout_seconds or problem.timeout_seconds, what]).encode()
        ).digest()
