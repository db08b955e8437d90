"""What scoring one completion came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "timeout", "killed", "harness_error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a completion passed its problem's tests.

    Attributes:
        passed: true if and only if `status` is ``passed``.
        status: ``failed`` covers wrong answers and exceptions; ``timeout`` the time limit; ``killed`` a signal or the memory
            limit; ``harness_error`` is no statement about the completion at all.
        detail: one short line: the exception, the signal, the limit.
    """

    passed: bool
    status: Status
    detail: str
