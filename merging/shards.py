"""Shards: the safetensors files of a model, written as their tensors are made.

Guarantees: no more of a file is in memory than a window of 64 MB, or its largest tensor; tensors lie where their dtype
wants them. Does not know how a tensor is made, or into which pieces files take it apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.checkpoints.headers import Entry, header

_WINDOW = 64 << 20


def split(entries: Sequence[Entry], limit: int) -> Iterator[list[Entry]]:
    """Yield runs of tensors of at most `limit` bytes together, or of one tensor that is larger."""
    run: list[Entry] = []
    size = 0
    for entry in entries:
        if run and size + entry.nbytes > limit:
            yield run
            run, size = [], 0
        run.append(entry)
        size += entry.nbytes
    if run:
        yield run


def whole(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor as a file holds it that keeps it in one piece."""
    return {name: tensor}


def write_shard(
    file: Path,
    entries: Sequence[Entry],
    fill: Callable[[Mapping[str, Tensor]], None],
    disassemble: Callable[[str, Tensor], Mapping[str, Tensor]] = whole,
) -> list[str]:
    """Write a safetensors file.

    Args:
        file: where to.
        entries: its tensors.
        fill: called with some of the tensors by name, on the CPU, to write their elements.
        disassemble: gives the contiguous pieces, by name, that the file holds a tensor in; on the meta device, too.

    Returns:
        The names in the file.

    Raises:
        OSError: the file cannot be written.
    """
    # The widest first, so that each begins at a multiple of its elements' size.
    placed = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    windows = list(split(placed, _WINDOW))
    memory = torch.empty(max(sum(entry.nbytes for entry in window) for window in windows), dtype=torch.uint8)
    pieces = [piece for entry in placed for piece in _pieces(entry, disassemble)]
    with file.open("wb") as out:
        out.write(header(pieces, {"format": "pt"}))
        for window in windows:
            views = _views(window, memory)
            fill(views)
            for name, tensor in views.items():
                for piece in disassemble(name, tensor).values():
                    out.write(piece.view(-1).view(torch.uint8).numpy().data)
    return [piece.name for piece in pieces]


def _pieces(entry: Entry, disassemble: Callable[[str, Tensor], Mapping[str, Tensor]]) -> list[Entry]:
    tensor = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
    return [Entry(name, tuple(piece.shape), piece.dtype) for name, piece in disassemble(entry.name, tensor).items()]


def _views(window: Sequence[Entry], memory: Tensor) -> dict[str, Tensor]:
    views = {}
    start = 0
    for entry in window:
        views[entry.name] = memory[start : start + entry.nbytes].view(entry.dtype).view(entry.shape)
        start += entry.nbytes
    return views
