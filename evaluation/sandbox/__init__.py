"""Execution of what models write: in processes of its own, under limits, judged from outside.

Guarantees and limits are those of ``pool`` and ``confinement``; the names below are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.sandbox.pool import SandboxPool
    from evaluation.sandbox.verdict import Status, Verdict
    from evaluation.sandbox.worker import SandboxError

__all__ = ["SandboxError", "SandboxPool", "Status", "Verdict"]

_HOMES = {"SandboxError": "worker", "SandboxPool": "pool", "Status": "verdict", "Verdict": "verdict"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
