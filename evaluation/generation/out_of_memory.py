"""Memory errors: how to recognize that memory ran out or a device is lost, and how to release memory.

`is_out_of_memory` is also in merging, since neither package may import the other; a test checks that both give the same
answers.
"""

from __future__ import annotations

import ctypes
import gc

import torch

# DEFAULT_MMAP_THRESHOLD_MAX of glibc's malloc: it keeps nothing of larger blocks.
_GLIBC_LARGEST_KEPT = 32 << 20
# Words in the errors of the host, of a device, and of the libraries that compute on it.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out; torch has no error class for that on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Whether a GPU has failed in such a way that this process cannot use it again."""
    of_device = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    return of_device and not is_out_of_memory(error)


def make_room_on_host(size: int) -> None:
    """Return freed memory to the system if a tensor of `size` bytes, made next, cannot use it.

    glibc keeps freed blocks of up to 32 MiB, which before its version 2.38 it reuses poorly for aligned ones. It takes
    larger blocks from the system.
    """
    if size > _GLIBC_LARGEST_KEPT:
        _trim()


def release_unused() -> None:
    """Return unused memory to the device and the system."""
    gc.collect()
    torch.cuda.empty_cache()
    _trim()


def _trim() -> None:
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
