"""Freed memory is returned to the system if the next tensor cannot use it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Frees tensors of 1 MiB whose neighbours live on, so that the C library keeps their memory. The block before them
# raises the size up to which it does so.
_HOLES = """
import torch
from resource import getpagesize
from pathlib import Path
from evaluation.generation.out_of_memory import make_room_on_host, release_unused

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()

torch.ones(7 << 20)
kept = [(torch.ones(1 << 18), torch.ones(512)) for _ in range(64)]
kept = [small for _, small in kept]
before = resident()
make_room_on_host(1 << 20)
print(before - resident())
make_room_on_host(33 << 20)
print(before - resident())
again = [(torch.ones(1 << 18), torch.ones(512)) for _ in range(64)]
again = [small for _, small in again]
before = resident()
release_unused()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_before_a_tensor_that_cannot_use_it() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    small, large, unused = map(int, done.stdout.split())
    assert small < 1 << 20
    assert min(large, unused) > 56 << 20
