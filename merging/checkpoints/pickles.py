"""Torch pickles: the tensors of a file that torch.save wrote, without running any code that it holds.

Guarantees: torch's own unpickler for plain tensors (weights_only) maps the files, so opening one reads no weights. A
pickle that needs to run code is refused by name. Does not read files older than torch 1.6, which cannot be mapped.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.checkpoints.weights import StoredTensor, lies_well
from merging.errors import MachineError, MergingError, first_line

_CODE = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class PickledTensor(StoredTensor):
    """A tensor of a mapped pickle."""

    mapped: Tensor = field(compare=False, repr=False)
    file_bytes: int = field(compare=False, repr=False)

    def view(self) -> Tensor:
        """Return its place in the map."""
        # Touching a mapped page of a truncated file would kill the process.
        if not self.file.exists() or self.file.stat().st_size < self.file_bytes:
            raise MachineError(f"{self.file}: tensor {self.name} cannot be read: the file was truncated or removed")
        whole = self.mapped.contiguous()
        return whole if lies_well(self.dtype, whole.data_ptr()) else whole.clone()

    def read(self) -> Tensor:
        """Copy it out of the map."""
        found = self.view()
        return found if found.data_ptr() != self.mapped.data_ptr() else found.clone()


def read_pickle(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a torch pickle by name. Raises MergingError if it is broken, old, or needs to run code."""
    content = _load(file)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise MergingError(f"{file}: holds a {type(content).__name__} where a state dict was expected")
    size = file.stat().st_size
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    return {
        name: PickledTensor(name, tuple(tensor.shape), tensor.dtype, file, tensor, size)
        for name, tensor in tensors.items()
    }


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        if found := _CODE.search(str(error)):
            raise MergingError(
                f"{file}: this pickle runs code when it is loaded ({found[1]}), which merge-search never does; "
                "get the model as safetensors"
            ) from None
        raise _broken(file, "its pickle cannot be read") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if "_use_new_zipfile_serialization" in str(error):
            raise MergingError(
                f"{file}: is not a torch pickle, or is older than torch 1.6; save the model again, as safetensors"
            ) from None
        raise _broken(file, first_line(error)) from None


def _broken(file: Path, reason: str) -> MergingError:
    return MergingError(f"{file}: is not a complete torch pickle ({reason}); download or copy it again")
