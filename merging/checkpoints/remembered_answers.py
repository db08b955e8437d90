"""Remembered answers: what transformers says about a model, kept on disk.

A merge needs no model, but only transformers knows which tensors a config asks for, what its class fills in, and which
ids a tokenizer gives to special tokens. To answer, it must be imported and build the model without weights. All answers
depend on a few small files, so each is asked once per content of these files. This pays in each merge and export
command: in tests/benchmarks/export_speed.py, the columns "our first" are without it, the columns "ours" with it.

Guarantees: an answer is reused only for the same question and the same versions of transformers, tokenizers, torch,
Python and this package's code. Errors are not remembered. Where the home cannot be written, or transformers is a
development version, the question is asked each time. Callers never ask here what a model's own code would answer
(`Checkpoint.remembered`).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from merging.caches import cache_folder, put

_ASKED = ("transformers", "tokenizers", "torch")
_OWN = Path(__file__).parents[1]


def remembered(question: object, ask: Callable[[], Any]) -> Any:
    """Return what `ask` returned the first time that this question was asked on this machine.

    Args:
        question: plain data (as JSON holds it) that the answer depends on.
        ask: gives the answer, as plain data, or raises.

    Returns:
        The answer as JSON gives it back (tuples are lists), whether it was remembered or not.
    """
    folder, edition = cache_folder("memo"), _edition()
    if folder is None or edition is None:
        return json.loads(json.dumps(ask()))
    text = json.dumps([edition, question], sort_keys=True)
    file = folder / f"{sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):  # not asked yet, or truncated by a crash
        return json.loads(file.read_bytes())
    answer = json.dumps(ask())
    with contextlib.suppress(OSError):  # a full disk: ask again next time
        put(file, answer.encode())
    return json.loads(answer)


def digest(file: Path) -> str | None:
    """Return the digest of a small file, to be part of a question; None if there is no file."""
    try:
        return sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


@cache
def _edition() -> list[str] | None:
    """Return what the answers depend on beyond the question; None if that is unknown."""
    try:
        versions = [version(name) for name in _ASKED]
    except PackageNotFoundError:  # installed from source without a version
        return None
    if any("dev" in each for each in versions):  # changes from day to day
        return None
    own = sha256()
    for file in sorted(_OWN.rglob("*.py")):
        own.update(file.read_bytes())
    return [*versions, sys.version, own.hexdigest()]
