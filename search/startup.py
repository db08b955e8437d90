"""Start-up: importing what takes seconds, in less of them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch, or what else is large, without the garbage collector, which finds nothing in what stays.

    Half a million objects come, over which it would go again and again, and once more when the process ends. Where
    torch is there already nothing is done: the objects of a process that has begun to work may well be garbage.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
