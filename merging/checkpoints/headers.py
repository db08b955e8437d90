"""Headers of safetensors files: the entry of each tensor, in the order of the file.

Guarantees: in a written file the tensors begin at a multiple of 64 bytes, so that the first one is aligned for every
computation. Reads no tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ALIGNMENT = 64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that a file holds, or will hold."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size, in memory as in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def header(entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Return the beginning of a file that holds these tensors, one after another."""
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for entry in entries:
        offsets = [start, start + entry.nbytes]
        content[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        start += entry.nbytes
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
