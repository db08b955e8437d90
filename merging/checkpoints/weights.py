"""Tensors on disk: what a file's header says of each, and reading one when it is wanted.

Guarantees: a safetensors file is checked for being whole before any tensor is read; reading is safe from several
threads, and a file that has been cut short since is an error. Does not know what a model is.
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
    """A tensor that lies on disk. Two of them are equal if they are the same tensor of the same file."""

    file: Path

    @abstractmethod
    def read(self) -> Tensor:
        """Read it into memory of its own, on the CPU. Raises MachineError if its file cannot be read."""

    def view(self) -> Tensor:
        """Return it on the CPU without a copy where its file can be mapped, else as `read` does; not to be written to.

        A file that is cut short while it is mapped ends the process: what lives long is to be read.
        """
        return self.read()

    def read_into(self, memory: Tensor) -> None:
        """Read it into a contiguous CPU tensor of its shape and dtype. Raises MachineError as `read` does."""
        memory.copy_(self.view())

    def made_of(self, digest: Digest) -> object:
        """Return plain data that is the same for tensors of the same bits, given what returns a file's digest."""
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
                        raise OSError(None, "it has become shorter since it was opened")
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
                # Private: should anyone write to it after all, the file stays what it is.
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
    """Whether all that is computed with a tensor at this address has the bits that it has elsewhere."""
    # BLAS sums a product of float32 or float64 vectors in another order where they do not begin at 64 bytes.
    return address % (ALIGNMENT if dtype.itemsize > 2 else dtype.itemsize) == 0


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name. Raises MergingError if it is not whole or quantized."""
    header, start = _header(file)
    header.pop("__metadata__", None)
    return {
        name: SafeTensor(
            name, tuple(entry["shape"]), _dtype(file, name, entry["dtype"]), file, start + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def read_metadata(file: Path) -> dict[str, str]:
    """Return what a safetensors file says besides its tensors. Raises MergingError if it is not whole."""
    metadata: dict[str, str] = _header(file)[0].get("__metadata__", {})
    return metadata


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin."""
    try:
        with safe_open(file, framework="pt"):  # which checks all that can be wrong with it
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
