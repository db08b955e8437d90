"""Tensors on disk: their entries in a file's header, and how to read one on demand.

Guarantees: a safetensors file is checked for completeness before any tensor is read. Reading is safe from several
threads; a file that was truncated since is an error. Does not know what a model is.
"""

from __future__ import annotations

import json
import mmap
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from merging.checkpoints.headers import ALIGNMENT, DTYPES, TensorEntry
from merging.errors import MachineError, MergingError, first_line

Digest: TypeAlias = Callable[[Path], str]


@dataclass(frozen=True)
class StoredTensor(TensorEntry, ABC):
    """A tensor on disk. Two of them are equal if they are the same tensor of the same file."""

    file: Path

    @abstractmethod
    def read(self) -> Tensor:
        """Read it into memory of its own, on the CPU. Raises MachineError if its file cannot be read."""

    def view(self) -> Tensor:
        """Return it on the CPU, mapped without a copy where the file allows, else read. Do not write to it.

        Truncating a mapped file kills the process, so use `read` for tensors that live long.
        """
        return self.read()

    def read_into(self, memory: Tensor) -> None:
        """Read it into a contiguous CPU tensor of its shape and dtype. Raises MachineError as `read` does."""
        memory.copy_(self.view())

    def made_of(self, digest: Digest) -> object:
        """Return plain data that is equal for tensors with equal bits; `digest` returns that of a file."""
        return [digest(self.file), self.name]


@dataclass(frozen=True)
class SafeTensor(StoredTensor):
    """A tensor of a safetensors file: its bytes from `offset` on."""

    offset: int

    def read(self) -> Tensor:
        """Read its bytes."""
        memory = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(memory)
        return memory

    def read_into(self, memory: Tensor) -> None:
        """Read its bytes, without a second copy in memory."""
        left = memory.view(-1).view(torch.uint8).numpy().data
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset)
                while left:
                    if not (count := file.readinto(left)):
                        raise OSError(None, "it was truncated after it was opened")
                    left = left[count:]
        except OSError as error:
            raise self._unreadable(error) from None

    def view(self) -> Tensor:
        """Map its bytes, for as long as the tensor is used."""
        if not self.nbytes or not lies_well(self.dtype, self.offset):
            return self.read()
        beyond = self.offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.file.open("rb") as file:
                # Private, so that a write by mistake cannot change the file.
                pages = mmap.mmap(
                    file.fileno(), beyond + self.nbytes, access=mmap.ACCESS_COPY, offset=self.offset - beyond
                )
        except (OSError, ValueError) as error:  # ValueError: the file ends before the tensor does
            raise self._unreadable(error) from None
        return torch.frombuffer(pages, dtype=self.dtype, offset=beyond).view(self.shape)

    def _unreadable(self, error: Exception) -> MachineError:
        reason = getattr(error, "strerror", None) or first_line(error)
        return MachineError(f"{self.file}: tensor {self.name} cannot be read: {reason}")


def lies_well(dtype: torch.dtype, address: int) -> bool:
    """Whether computations with a tensor at this address give the same bits as elsewhere."""
    # BLAS sums products of float32 or float64 vectors in another order if they are not aligned to 64 bytes.
    return address % (ALIGNMENT if dtype.itemsize > 2 else dtype.itemsize) == 0


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name. Raises MergingError if it is incomplete or quantized."""
    header, start = _header(file)
    header.pop("__metadata__", None)
    return {
        name: SafeTensor(
            name, tuple(entry["shape"]), _dtype(file, name, entry["dtype"]), file, start + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises MergingError if it is incomplete."""
    metadata: dict[str, str] = _header(file)[0].get("__metadata__", {})
    return metadata


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin."""
    try:
        with safe_open(file, framework="pt"):  # checks the whole header
            pass
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            return json.loads(opened.read(size)), 8 + size
    except (SafetensorError, OSError) as error:
        raise MergingError(
            f"{file}: is not a complete safetensors file ({first_line(error)}); download or copy it again"
        ) from None


def _dtype(file: Path, tensor: str, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise MergingError(
            f"{file}: tensor {tensor} is stored as {name}; save the model as bfloat16, float16 or float32"
        )
    return DTYPES[name]
