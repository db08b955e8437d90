"""Memory that ran out: how to recognize it, and how to make room."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

import torch

from merging.errors import OutOfMemory, first_line

T = TypeVar("T")
# Messages of the host, of a device, and of the libraries that compute on it.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: on a CPU, torch has no error class for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def return_freed_memory() -> None:
    """Return what the C library keeps of freed memory to the system."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def with_room(work: Callable[[], T], give_up: Callable[[], int], what: str) -> T:
    """Do some work; if memory runs out, give something up and do it again.

    Args:
        work: the work, which can be done again from its beginning.
        give_up: frees memory that can be spared, and returns its bytes; 0 if none is left.
        what: the beginning of the error: where memory ran out, and during what.

    Raises:
        OutOfMemory: nothing is left to give up.
    """
    is_last = False
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        # Only here: the error kept the tensors of its frames alive.
        if give_up():
            continue
        if is_last:
            raise OutOfMemory(f"{what}: {reason}; choose another device (device: cpu), or fewer parents")
        is_last = True  # another thread may have given up the rest, or finished
