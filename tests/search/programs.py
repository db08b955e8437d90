"""Programs that searches execute: each once per session, in the real sandbox, however many searches come upon it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

from evaluation.problems import Problem
from evaluation.sandbox.verdict import Verdict
from evaluation.sandbox.zygote_pair import ZygotePair
from evaluation.verdicts import verdict_key

VERDICTS: dict[bytes, Verdict] = {}
"""What became of the programs that this process has executed, or was told of."""

_check = ZygotePair.check


@contextmanager
def executed_once(known: Mapping[bytes, Verdict] | None = None) -> Iterator[None]:
    """Let sandboxes remember the verdicts of all others under the same layers; the judge and the store do not know.

    Args:
        known: what another process has executed.
    """
    VERDICTS.update(known or {})
    with patch.object(ZygotePair, "check", _recall_or_check):
        yield


@contextmanager
def executed_anew() -> Iterator[None]:
    """Let sandboxes execute every program, for a test that compares verdicts on the same ones."""
    with patch.object(ZygotePair, "check", _check):
        yield


def _recall_or_check(worker: ZygotePair, problem: Problem, completion: str) -> Verdict:
    key = verdict_key(problem, completion, worker._budget_seconds, worker.start())
    if (verdict := VERDICTS.get(key)) is None:
        verdict = _check(worker, problem, completion)
        if verdict.status in ("passed", "failed"):
            VERDICTS[key] = verdict
    return verdict
