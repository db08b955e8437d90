"""The memo: what transformers says of a model, kept on disk, because to ask it takes seconds.

A merge needs no model; but only transformers knows which tensors a config asks for, what its class fills in, and which
ids a tokenizer gives to special tokens, and it must be imported and build the model (without weights) to tell. All
that is a function of a few small files, so it is asked once for their bytes.

Guarantees: an answer is used for the same question alone, and the same versions of what gave it (transformers,
tokenizers, torch, Python, this package's own code); an error is no answer, so what is wrong is found each time. Where
the home cannot be written, or transformers is a version in development, the question is asked each time. What code
that comes with a model would answer is never kept; that is left to who asks (`Checkpoint.remembered`).
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
    """Return what `ask` returned the first time for this question, on this machine.

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
    with contextlib.suppress(OSError, ValueError):  # not asked yet, or cut short by a machine that went down
        return json.loads(file.read_bytes())
    answer = json.dumps(ask())
    with contextlib.suppress(OSError):  # a full disk: it will be asked again
        put(file, answer.encode())
    return json.loads(answer)


def digest(file: Path) -> str | None:
    """Return what stands for the bytes of a small file in a question; None for no file."""
    try:
        return sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


@cache
def _edition() -> list[str] | None:
    """Return what an answer depends on besides the question; None where that cannot be told."""
    try:
        versions = [version(name) for name in _ASKED]
    except PackageNotFoundError:  # code from somewhere, which has none
        return None
    if any("dev" in each for each in versions):  # which changes from day to day
        return None
    own = sha256()
    for file in sorted(_OWN.rglob("*.py")):
        own.update(file.read_bytes())
    return [*versions, sys.version, own.hexdigest()]
