"""Shards: the safetensors files of a model, written while their tensors are made.

Guarantees: memory holds at most one tensor per thread; tensors are aligned for their dtype. Does not know how a tensor
is made, or into which pieces files split it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from merging.checkpoints.headers import TensorEntry, header

Destination: TypeAlias = AbstractContextManager[Tensor]
"""The place of a tensor: entering it gives memory for the elements, leaving it writes them to the file."""


def write_shard(
    file: Path,
    entries: Sequence[TensorEntry],
    fill: Callable[[Mapping[str, Destination]], None],
    disassemble: Callable[[str, Tensor], Mapping[str, Tensor]],
) -> list[str]:
    """Write a safetensors file.

    Args:
        file: the file to write.
        entries: its tensors.
        fill: called with the place of each tensor by name; writes all elements there, on the CPU, in any order and in
            any number of threads, each with one tensor at a time.
        disassemble: returns the contiguous pieces, by name, in which the file holds a tensor; also on the meta device.

    Returns:
        The names in the file.

    Raises:
        OSError: the file cannot be written.
    """
    # Widest dtype first, so that each tensor begins at a multiple of its element size.
    placed = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    pieces = [piece for entry in placed for piece in pieces_of(entry, disassemble)]
    beginning = header(pieces, {"format": "pt"})
    own = threading.local()
    with file.open("wb", buffering=0) as out:
        _write_all(out.fileno(), beginning, 0)

        @contextmanager
        def place(entry: TensorEntry, start: int) -> Iterator[Tensor]:
            if own.__dict__.setdefault("memory", torch.empty(0, dtype=torch.uint8)).numel() < entry.nbytes:
                own.memory = torch.empty(0, dtype=torch.uint8)  # frees it before the larger one is allocated
                own.memory = torch.empty(entry.nbytes, dtype=torch.uint8)
            tensor = own.memory[: entry.nbytes].view(entry.dtype).view(entry.shape)
            yield tensor
            for piece in disassemble(entry.name, tensor).values():
                start += _write_all(out.fileno(), piece.view(-1).view(torch.uint8).numpy().data, start)

        starts = accumulate((entry.nbytes for entry in placed), initial=len(beginning))
        fill({entry.name: place(entry, start) for entry, start in zip(placed, starts, strict=False)})
    return [piece.name for piece in pieces]


def _write_all(file: int, content: bytes | memoryview, start: int) -> int:
    """Write at an offset of a file, so that threads share no state; return the number of bytes."""
    left = memoryview(content)
    while left:
        count = os.pwrite(file, left, start)
        left, start = left[count:], start + count
    return len(content)


def pieces_of(entry: TensorEntry, disassemble: Callable[[str, Tensor], Mapping[str, Tensor]]) -> list[TensorEntry]:
    """Return the tensors in which a file holds a tensor."""
    tensor = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
    return [
        TensorEntry(name, tuple(piece.shape), piece.dtype) for name, piece in disassemble(entry.name, tensor).items()
    ]
